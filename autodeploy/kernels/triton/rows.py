"""Tensors as rows."""

from __future__ import annotations

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


def rows_of(x: Tensor) -> Tensor:
    """x as `[rows, width]` with dense elements; a copy only where no such view exists."""
    flat = x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0)
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def dense(x: Tensor | None) -> Tensor | None:
    """x without gaps between its elements."""
    return None if x is None else x.contiguous()


def described(x: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """What brings blocks of `rows` by `columns` of x, with zeros for what is outside of it."""
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, columns])
