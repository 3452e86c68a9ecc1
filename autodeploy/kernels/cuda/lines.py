"""Tensors as rows that copies of 16 bytes can read."""

from __future__ import annotations

import torch
from torch import Tensor


def aligned(rows: Tensor) -> Tensor:
    """Rows without gaps that begin on 16 bytes; a copy only where they do not."""
    whole = rows.contiguous()
    return whole if whole.data_ptr() % 16 == 0 else whole.clone()


def lines(rows: Tensor) -> Tensor:
    """Rows `[m, k]` each of which begins on 16 bytes; a copy only where they do not."""
    whole = rows.data_ptr() % 16 == 0 and rows.stride(1) == 1 and rows.stride(0) * rows.itemsize % 16 == 0
    return rows if whole else rows.clone(memory_format=torch.contiguous_format)
