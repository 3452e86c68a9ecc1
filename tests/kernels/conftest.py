import pytest

from autodeploy.kernels import native


@pytest.fixture(scope="session")
def native_backend() -> None:
    """The native backend, or a skip on a machine without a compiler."""
    if reason := native.why_unavailable():
        pytest.skip(reason)
