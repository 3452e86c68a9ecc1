"""`ops.packed_expert_linear`: as `expert_linear`, by experts that are decoded on their way to the matrix units."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.experts import find_tile, group_by_expert, rows_and_group
from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.quantized import ScaleLayout
from autodeploy.kernels.triton.unpack import exact_scale, unpack
from autodeploy.quantization.formats import PACKED

MOST_ROWS = 64
LEAST_GROUP = 16


@triton.jit
def _load_scales(stored, line, first, groups, known, COUNT: tl.constexpr, OTHER: tl.constexpr):  # noqa: N803
    """What `stored [.., groups]` holds for lines, of COUNT groups from `first`: `[lines, COUNT]`."""
    group = first + tl.arange(0, COUNT)
    at = stored + line[:, None] * groups + group[None, :]
    return tl.load(at, mask=known[:, None] & (group < groups)[None, :], other=OTHER)


@triton.jit(do_not_specialize=["rows", "group"])
def _packed_experts_kernel(
    x,
    weight,
    scale,
    zero,
    bias,
    out,
    order,
    starts,
    rows,
    group,
    num_experts,
    n,
    k,
    x_stride,
    lines,
    groups,
    format: tl.constexpr,
    EACH: tl.constexpr,  # noqa: N803
    EDGE: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    COUNT: tl.constexpr,  # noqa: N803
    overlapped: tl.constexpr,
    EXPERTS: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """Program (i, j) takes BLOCK_N rows of the weight of the expert that owns tile j, and that tile of its rows.

    A byte holds EACH numbers. A scale serves EDGE rows (0: all of them) and GROUP columns (0: all of them); a turn
    meets COUNT scales of a row.
    """
    await_inputs(overlapped)
    expert, place, end = find_tile(starts, tl.program_id(1), rows, num_experts, EXPERTS, BLOCK_M)
    if expert >= num_experts:
        return
    real = place < end
    row = tl.load(order + place, mask=real, other=0)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = column < n
    dtype: tl.constexpr = x.dtype.element_ty
    length = k // EACH
    from_rows = x + (row // group).to(tl.int64) * x_stride
    from_expert = weight + tl.cast(expert, tl.int64) * n * length
    if EDGE == 0:
        line = tl.cast(expert, tl.int64) * lines + column * 0
    else:
        line = tl.cast(expert, tl.int64) * lines + column // EDGE
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(0, k, BLOCK_K, num_stages=STAGES):
        inner = start + tl.arange(0, BLOCK_K)
        byte = start // EACH + tl.arange(0, BLOCK_K // EACH)
        at = from_expert + column[:, None] * length + byte[None, :]
        stored = tl.load(at, mask=exists[:, None] & (byte < length)[None, :], other=0.0)
        weights = unpack(stored, format, dtype, BLOCK_N, BLOCK_K)
        if GROUP != 0:
            wide = tl.reshape(weights.to(tl.float32), (BLOCK_N, COUNT, BLOCK_K // COUNT))
            if zero is not None:
                shift = _load_scales(zero, line, start // GROUP, groups, exists, COUNT, 8.0).to(tl.float32) - 8.0
                wide -= shift[:, :, None]
            factor = exact_scale(_load_scales(scale, line, start // GROUP, groups, exists, COUNT, 0.0), format)
            weights = tl.reshape(wide * factor[:, :, None], (BLOCK_N, BLOCK_K)).to(dtype)
        values = tl.load(from_rows[:, None] + inner[None, :], mask=real[:, None] & (inner < k)[None, :], other=0.0)
        sums = tl.dot(weights, tl.trans(values), sums, input_precision="ieee")
    if GROUP == 0:
        sums *= exact_scale(tl.load(scale + line, mask=exists, other=0.0), format)[:, None]
    if bias is not None:
        sums += tl.load(bias + expert * n + column, mask=exists, other=0.0).to(tl.float32)[:, None]
    to = out + row.to(tl.int64)[None, :] * n + column[:, None]
    tl.store(to, sums.to(dtype), mask=exists[:, None] & real[None, :])


def packed_expert_linear(
    x: Tensor,
    experts: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    format: str,
) -> Tensor:
    """`ops.packed_expert_linear`, for experts that exist."""
    num_experts, n, k = weight.shape[0], weight.shape[1], x.shape[-1]
    out = torch.empty((*experts.shape, n), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    rows, group = rows_and_group(x, experts)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    order, starts = group_by_expert(experts, num_experts)
    count = experts.numel()
    block_m = min(MOST_ROWS, max(16, int(triton.next_power_of_2(-(-count // num_experts)))))
    block_k = min(64 if x.dtype == torch.float32 else 128, max(32, int(triton.next_power_of_2(k))))
    layout = ScaleLayout.of(scale[0], n, k, blocked=format == "fp8")
    _packed_experts_kernel[(triton.cdiv(n, 64), count // block_m + min(count, num_experts))](
        rows,
        weight.contiguous(),
        scale.contiguous(),
        None if zero is None else zero.contiguous(),
        None if bias is None else bias.contiguous(),
        out,
        order,
        starts,
        count,
        group,
        num_experts,
        n,
        k,
        rows.stride(0),
        scale.shape[1],
        scale.shape[2],
        format=format,
        EACH=2 if format in PACKED else 1,
        EDGE=layout.rows,
        GROUP=layout.group,
        COUNT=max(1, block_k // layout.group) if layout.group else 1,
        EXPERTS=triton.next_power_of_2(num_experts),
        BLOCK_M=block_m,
        BLOCK_N=64,
        BLOCK_K=block_k,
        STAGES=3,
        num_warps=4,
        **overlap(x.device),
    )
    return out


def declines(
    x: Tensor,
    experts: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    format: str,
) -> str | None:
    """Why the kernel cannot serve, or None."""
    if bias is not None and bias.dtype != x.dtype:
        return "the arguments differ in dtype"
    if zero is not None and (format != "int4" or zero.shape != scale.shape):
        return "zero points are not those of int4, one for each scale"
    group = ScaleLayout.of(scale[0], weight.shape[1], x.shape[-1], blocked=format == "fp8").group
    if (group and (group < LEAST_GROUP or group & (group - 1))) or (not group and zero is not None):
        return f"groups of {group or x.shape[-1]} are no power of two of at least {LEAST_GROUP}"
    return None
