from collections.abc import Iterator

import pytest
import torch

from autodeploy.kernels import native

BROKEN = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def native_backend() -> None:
    """The native backend, or a skip on a machine without a compiler."""
    if reason := native.why_unavailable():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def unbroken_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Name the test that breaks CUDA for its process: whatever comes after it in that process would fail as well."""
    stash = request.config.stash
    if BROKEN in stash:
        pytest.skip(f"CUDA was broken in this process by {stash[BROKEN]}")
    yield
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        try:
            torch.cuda.synchronize()
        except torch.AcceleratorError:
            stash[BROKEN] = request.node.nodeid
            raise
