"""Root-mean-square norm, alone or of a sum: one pass over each row, rounding where the references round."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.rows import dense, rows_of


@triton.jit
def _rms_norm_kernel(
    x,
    residual,
    weight,
    normed,
    total,
    x_stride,
    residual_stride,
    width,
    eps,
    offset,
    scale_in_float32: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    dtype = normed.dtype.element_ty
    if weight is not None:  # no kernel writes it: its way here overlaps the kernel before
        w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32) + offset
    await_inputs(overlapped)
    h = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        h += tl.load(residual + row * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
        h = h.to(dtype)
        tl.store(total + row * width + column, h, mask=inside)
        h = h.to(tl.float32)
    h = h * tl.rsqrt(tl.sum(h * h, axis=0) / width + eps)
    if weight is not None:
        if scale_in_float32:  # noqa: SIM108  decided when the kernel is compiled
            h = h * w
        else:
            h = h.to(dtype).to(tl.float32) * w.to(dtype).to(tl.float32)
    tl.store(normed + row * width + column, h.to(dtype), mask=inside)


def _launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    normed: Tensor,
    total: Tensor | None,
    eps: float,
    offset: float,
    scale_in_float32: bool,
) -> None:
    rows = rows_of(x)
    if not rows.numel():
        return
    residuals = None if residual is None else rows_of(residual)
    block = triton.next_power_of_2(rows.shape[1])
    _rms_norm_kernel[(rows.shape[0],)](
        rows,
        residuals,
        dense(weight),
        normed,
        total,
        rows.stride(0),
        0 if residuals is None else residuals.stride(0),
        rows.shape[1],
        eps,
        offset,
        scale_in_float32,
        BLOCK=block,
        num_warps=min(max(block // 512, 1), 16),
        **overlap(x.device),
    )


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0, scale_in_float32: bool = False
) -> Tensor:
    """`ops.rms_norm` for rows that one program can hold."""
    normed = torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch(x, None, weight, normed, None, eps, offset, scale_in_float32)
    return normed


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0, scale_in_float32: bool = False
) -> tuple[Tensor, Tensor]:
    """`ops.add_rms_norm` for rows that one program can hold."""
    normed, total = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
    _launch(x, residual, weight, normed, total, eps, offset, scale_in_float32)
    return normed, total
