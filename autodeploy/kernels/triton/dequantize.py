"""The numbers that a stored weight stands for, written out for matmuls of many rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.packed_skinny import read_packed, scaled_values
from autodeploy.kernels.triton.quantized import BLOCK, ScaleLayout
from autodeploy.kernels.triton.rows import dense
from autodeploy.kernels.triton.unpack import exact_scale, unpack

ROWS, COLUMNS = 64, 256


@triton.jit
def _dequantize_kernel(
    weight,
    scale,
    zero,
    global_scale,
    out,
    n,
    k,
    weight_stride,
    groups,
    format: tl.constexpr,
    overlapped: tl.constexpr,
    SCALE_ROWS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
) -> None:
    await_inputs(overlapped)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    start = tl.program_id(1) * BLOCK_K
    known = row < n
    PER_BYTE: tl.constexpr = 1 if format == "int8" or format == "fp8" else 2  # noqa: N806
    from_rows = weight + row.to(tl.int64)[:, None] * weight_stride
    packed = read_packed(from_rows, known, start, k, False, PER_BYTE, BLOCK_K)
    dtype = out.dtype.element_ty
    values = unpack(packed, format, dtype, BLOCK_N, BLOCK_K).to(tl.float32)
    if SCALE_ROWS == 1 and GROUP > 0 and GROUP <= BLOCK_K:
        values = scaled_values(values, scale, zero, row, known, start, groups, format, GROUP, BLOCK_N, BLOCK_K)
    else:
        at = (row * 0 if SCALE_ROWS == 0 else row // SCALE_ROWS) * groups
        if GROUP > 0:
            at += start // GROUP
        if zero is not None:
            values -= tl.load(zero + at, mask=known, other=0.0).to(tl.float32)[:, None] - 8.0
        values *= exact_scale(tl.load(scale + at, mask=known, other=0.0), format)[:, None]
    if global_scale is not None:
        values *= tl.load(global_scale)
    column = start + tl.arange(0, BLOCK_K)
    tl.store(
        out + row.to(tl.int64)[:, None] * k + column[None, :],
        values.to(dtype),
        mask=known[:, None] & (column < k)[None, :],
    )


def dequantize(
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    format: str,
    k: int,
    dtype: torch.dtype,
) -> Tensor:
    """The weight `[N, k]` in `dtype`, each number rounded once; see `quantization.formats.dequantize`."""
    n = weight.shape[0]
    out = torch.empty((n, k), dtype=dtype, device=weight.device)
    layout = ScaleLayout.of(scale, n, k, blocked=format == "fp8")
    columns = min(BLOCK if format == "fp8" else COLUMNS, triton.next_power_of_2(k))
    _dequantize_kernel[(triton.cdiv(n, ROWS), triton.cdiv(k, columns))](
        weight.contiguous(), scale.contiguous(), dense(zero), global_scale, out,
        n, k, weight.shape[1], scale.shape[1], format,
        SCALE_ROWS=layout.rows, GROUP=layout.group, BLOCK_N=ROWS, BLOCK_K=columns, **overlap(weight.device),
    )  # fmt: skip
    return out
