"""The backend `triton`: kernels for NVIDIA GPUs."""

from __future__ import annotations

from autodeploy.kernels.table import Kernel


def kernels() -> tuple[Kernel, ...]:
    """The kernels of this backend; none where it is unavailable."""
    return ()
