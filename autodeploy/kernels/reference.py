"""The backend `torch`: the references themselves, which run anywhere and which inductor can fuse."""

from __future__ import annotations

import torch

from autodeploy.kernels.table import Kernel
from autodeploy.ops import OPS, CanonicalOp

BACKEND = "torch"
ALL_DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def reference_kernel(op: CanonicalOp) -> Kernel:
    """The operator's own reference as its kernel of last resort."""
    return Kernel(op, BACKEND, op.reference, dtypes=ALL_DTYPES, priority=-100, waits=op.reference_waits)


def kernels() -> tuple[Kernel, ...]:
    """The reference of every built-in operator."""
    return tuple(reference_kernel(op) for op in OPS)
