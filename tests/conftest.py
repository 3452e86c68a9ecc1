"""What makes the tests quick on a few cores: one thread a worker, less garbage to look through, fewer exports."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from uuid import uuid4

import pytest

pytest_plugins = ["tests.broken_device"]

# Tiny tensors gain nothing from threads, and the threads of two workers wait for each other. torch reads this when it
# is imported, and so does what the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.disable()  # what imports allocate stays


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Hide what is imported from the collector, which would walk it all again with every few builds."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _export_once() -> Iterator[None]:
    from autodeploy.export import trace  # torch, which must not come before its number of threads
    from tests.exports import Exports

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_export", Exports(trace._export))
        yield


@pytest.fixture(autouse=True)
def _plan_anew(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep nothing of a plan from one test to the next: some change the code of models."""
    folder = tmp_path_factory.getbasetemp() / f"plans-{uuid4().hex}"
    monkeypatch.setattr("autodeploy.planning.kept.plans_dir", lambda: folder)
