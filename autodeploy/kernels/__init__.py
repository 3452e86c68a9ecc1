"""Backends of the canonical operators, and the table that says which of them serves what.

`torch` (any device) is the reference; `native` is C++ for the CPU, compiled at first use; `triton` is for CUDA.
"""

from __future__ import annotations

from autodeploy.kernels import native, reference, triton
from autodeploy.kernels.backend import Backend
from autodeploy.kernels.reference import reference_kernel
from autodeploy.kernels.table import Kernel, KernelTable

BACKENDS = (
    Backend("native", native.kernels, ("cpu",)),
    Backend("triton", triton.kernels, ("cuda",), variants=("tma", "library", "cuda", "wgmma", "mma")),
)
"""Our own. Where a compiler or triton is missing, theirs has no kernels, and the torch references serve."""


def builtin_kernels(device: str) -> KernelTable:
    """Our kernels for a device ("cpu" or "cuda"), without those of plugins.

    The first call for the CPU compiles the native backend, which takes seconds and is kept in the cache folder.
    """
    loaded = [kernel for backend in BACKENDS for kernel in backend.kernels(device)]
    return KernelTable((*reference.kernels(), *loaded))


__all__ = [
    "BACKENDS",
    "Backend",
    "Kernel",
    "KernelTable",
    "builtin_kernels",
    "native",
    "reference_kernel",
    "triton",
]
