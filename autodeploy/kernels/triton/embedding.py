"""Looking up rows of a table."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap

MOST_AT_ONCE = 1024  # numbers of a row that a program copies: few rows are shared out among many


@triton.jit
def _embedding_kernel(
    weight,
    ids,
    out,
    stride,
    width,
    overlapped: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    await_inputs(overlapped)
    row = tl.program_id(0).to(tl.int64)
    source = weight + tl.load(ids + row) * stride
    tl.store(out + row * width + column, tl.load(source + column, mask=inside), mask=inside)


def embedding(weight: Tensor, ids: Tensor) -> Tensor:
    """`ops.embedding` for int64 ids and dense rows."""
    width = weight.shape[1]
    out = torch.empty((*ids.shape, width), dtype=weight.dtype, device=weight.device)
    if not out.numel():
        return out
    block = min(triton.next_power_of_2(width), MOST_AT_ONCE)
    _embedding_kernel[(ids.numel(), triton.cdiv(width, block))](
        weight,
        ids.contiguous(),
        out,
        weight.stride(0),
        width,
        BLOCK=block,
        num_warps=4,
        **overlap(weight.device),
    )
    return out
