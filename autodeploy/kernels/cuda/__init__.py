"""Kernels in CUDA C++, for what Triton's compiler does not give: compiled for the GPU at hand by NVRTC, at first use.

They need the package `cuda-bindings`, and the NVRTC that torch for CUDA comes with.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def why_unavailable() -> str | None:
    """The reason why no kernels can be compiled here, or None."""
    try:
        found = find_spec("cuda.bindings")
    except ModuleNotFoundError:
        found = None
    return None if found else "cuda-bindings is not installed: pip install 'fx-autodeploy[gpu]'"
