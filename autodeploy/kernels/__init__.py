"""Backends of the canonical operators, and the table that says which of them serves what.

`torch` (any device) is the reference; `native` is C++ for the CPU, compiled at first use; `triton` is for CUDA.
"""

from __future__ import annotations

from autodeploy.kernels import native, reference, triton
from autodeploy.kernels.reference import reference_kernel
from autodeploy.kernels.table import Kernel, KernelTable, Verdict


def builtin_kernels(device: str) -> KernelTable:
    """The kernels that this machine has for a device ("cpu" or "cuda").

    The first call for the CPU compiles the native backend, which takes seconds and is kept in the cache folder; where
    it or triton is missing, the torch references serve.
    """
    table = KernelTable(reference.kernels())
    return table + (native.kernels() if device == "cpu" else triton.kernels())


__all__ = ["Kernel", "KernelTable", "Verdict", "builtin_kernels", "native", "reference_kernel", "triton"]
