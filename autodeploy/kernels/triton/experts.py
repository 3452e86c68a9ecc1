"""`ops.expert_linear`: the rows of each expert are found on the device, and go through its weight together.

Nothing waits for the device: how many tiles an expert has is known there alone, so that the grid has as many as any
choice of experts can need, and programs without one leave.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap

BLOCK_ROWS = 1024


@triton.jit(do_not_specialize=["rows"])
def _group_kernel(experts, order, starts, rows, overlapped: tl.constexpr, BLOCK: tl.constexpr) -> None:  # noqa: N803
    """Program e writes where the rows of expert e start in `order`, and those rows there, the first row first."""
    await_inputs(overlapped)
    expert = tl.program_id(0)
    lower = tl.zeros((BLOCK,), tl.int32)
    for first in tl.range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        lower += (tl.load(experts + row, mask=row < rows, other=1 << 62) < expert).to(tl.int32)
    place = tl.sum(lower, axis=0)
    tl.store(starts + expert, place)
    for first in tl.range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        own = (tl.load(experts + row, mask=row < rows, other=-1) == expert).to(tl.int32)
        tl.store(order + place + tl.cumsum(own, axis=0) - 1, row, mask=own > 0)
        place += tl.sum(own, axis=0)


@triton.jit
def find_tile(starts, tile, rows, num_experts, EXPERTS: tl.constexpr, BLOCK_M: tl.constexpr):  # noqa: N803
    """The expert that owns a tile, or num_experts, the tile's places in the order, and the end of that expert's."""
    one = tl.arange(0, EXPERTS)
    known = one < num_experts
    begins = tl.load(starts + one, mask=known, other=rows)
    ends = tl.load(starts + one + 1, mask=one + 1 < num_experts, other=rows)
    tiles = tl.cumsum(tl.cdiv(ends - begins, BLOCK_M), axis=0)
    expert = tl.sum((tiles <= tile).to(tl.int32), axis=0)
    mine = one == expert
    end = tl.sum(tl.where(mine, ends, 0), axis=0)
    last = tl.sum(tl.where(mine, tiles, 0), axis=0)
    begin = tl.sum(tl.where(mine, begins, 0), axis=0)
    before = last - tl.cdiv(end - begin, BLOCK_M)
    place = begin + (tile - before) * BLOCK_M + tl.arange(0, BLOCK_M)
    return expert, place, end


@triton.jit(do_not_specialize=["rows", "group"])
def _experts_kernel(
    x,
    weight,
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
    transposed: tl.constexpr,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    EXPERTS: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """Program (i, j) takes BLOCK_N rows of the weight of the expert that owns tile j, and that tile of its rows."""
    await_inputs(overlapped)
    expert, place, end = find_tile(starts, tl.program_id(1), rows, num_experts, EXPERTS, BLOCK_M)
    if expert >= num_experts:
        return
    real = place < end
    row = tl.load(order + place, mask=real, other=0)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    exists = column < n

    from_rows = x + (row // group).to(tl.int64) * x_stride
    from_expert = weight + tl.cast(expert, tl.int64) * n * k
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(0, k, BLOCK_K, num_stages=STAGES):
        inner = start + tl.arange(0, BLOCK_K)
        inside = inner < k
        if transposed:
            at = from_expert + inner[:, None] * n + column[None, :]
            weights = tl.trans(tl.load(at) if even else tl.load(at, mask=inside[:, None] & exists[None, :], other=0.0))
        else:
            at = from_expert + column[:, None] * k + inner[None, :]
            weights = tl.load(at) if even else tl.load(at, mask=exists[:, None] & inside[None, :], other=0.0)
        values = tl.load(from_rows[:, None] + inner[None, :], mask=real[:, None] & inside[None, :], other=0.0)
        sums = tl.dot(weights, tl.trans(values), sums, input_precision="ieee")
    if bias is not None:
        sums += tl.load(bias + expert * n + column, mask=exists, other=0.0).to(tl.float32)[:, None]
    to = out + row.to(tl.int64)[None, :] * n + column[:, None]
    tl.store(to, sums.to(out.dtype.element_ty), mask=exists[:, None] & real[None, :])


def rows_and_group(x: Tensor, experts: Tensor) -> tuple[Tensor, int]:
    """The rows of x, and how many places of `experts` in a row share one."""
    if experts.dim() and x.shape[:-1] == (*experts.shape[:-1], 1):
        return x.reshape(-1, x.shape[-1]), experts.shape[-1]
    return x.expand(*experts.shape, x.shape[-1]).reshape(-1, x.shape[-1]), 1


def group_by_expert(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """The places of `experts [...]`, those of the first expert first, and where in them each expert starts."""
    order = torch.empty(experts.numel(), dtype=torch.int32, device=experts.device)
    starts = torch.empty(num_experts, dtype=torch.int32, device=experts.device)
    block = min(BLOCK_ROWS, max(32, int(triton.next_power_of_2(experts.numel()))))
    _group_kernel[(num_experts,)](
        experts.contiguous(), order, starts, experts.numel(), BLOCK=block, **overlap(experts.device)
    )
    return order, starts


def expert_linear(
    x: Tensor, experts: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False
) -> Tensor:
    """`ops.expert_linear`, for experts that exist."""
    num_experts, n, k = weight.shape[0], weight.shape[2 if transposed else 1], x.shape[-1]
    out = torch.empty((*experts.shape, n), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    rows, group = rows_and_group(x, experts)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    order, starts = group_by_expert(experts, num_experts)
    count = experts.numel()
    block_m = min(128, max(16, int(triton.next_power_of_2(-(-count // num_experts)))))
    block_k = (32 if x.dtype == torch.float32 else 64) * (2 if block_m < 64 else 1)
    block_k = min(block_k, max(16, int(triton.next_power_of_2(k))))
    block_n = 128 if block_m == 128 else 64
    _experts_kernel[(triton.cdiv(n, block_n), count // block_m + min(count, num_experts))](
        rows,
        weight.contiguous(),
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
        transposed=transposed,
        even=n % block_n == 0 and k % block_k == 0,
        EXPERTS=triton.next_power_of_2(num_experts),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        STAGES=4 if block_m < 64 else 3,
        num_warps=8 if block_m == 128 else 4,
        **overlap(x.device),
    )
    return out
