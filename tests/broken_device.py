"""A test that breaks CUDA for its process is named, and costs only itself where pytest-xdist replaces the process."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

BROKEN = pytest.StashKey[str]()


@pytest.fixture(autouse=True)
def _unbroken_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that breaks CUDA, skip what follows it in its process, and leave the memory to other processes."""
    import torch  # which must not come before its number of threads

    stash = request.config.stash
    if BROKEN in stash:
        pytest.skip(f"CUDA was broken in this process by {stash[BROKEN]}")
    yield
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except torch.AcceleratorError:
            stash[BROKEN] = request.node.nodeid
            raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Leave a worker whose device is broken as soon as its test is reported: another one runs what it had left."""
    done = yield
    if BROKEN in item.config.stash and hasattr(item.config, "workerinput"):
        os._exit(1)
    return done
