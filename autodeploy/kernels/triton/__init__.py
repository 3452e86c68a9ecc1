"""The backend `triton`: kernels for NVIDIA GPUs, in float32, bfloat16 and float16.

With `TRITON_INTERPRET=1` in the environment before the first import of triton, they also run on the CPU, slowly.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

from autodeploy.kernels.table import Kernel


@cache
def why_unavailable() -> str | None:
    """The reason why the kernels cannot be used here, or None."""
    return None if find_spec("triton") else "triton is not installed: pip install 'fx-autodeploy[gpu]'"


@cache
def kernels() -> tuple[Kernel, ...]:
    """The kernels of this backend; none where triton is not installed. The first call registers their operators."""
    if why_unavailable() is not None:
        return ()
    from autodeploy.kernels.triton.register import register

    return register()
