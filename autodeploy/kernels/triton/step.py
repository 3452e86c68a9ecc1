"""The beginning of a step in one kernel: news for the page table, each request's row of it, and unknown tokens.

In PyTorch that takes ten kernels, which a GPU starts and ends in more time than they need.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.runtime.packing import PackedStep

BLOCK = 2048  # numbers a program moves at a time


@triton.jit(do_not_specialize=["num_tokens", "num_requests", "num_rows"])  # they differ from step to step
def _begin_kernel(
    token_ids,
    rows,
    context_len,
    query_start,
    page_start,
    places,
    pages,
    table,
    last_tokens,
    input_ids,
    step_table,
    step_query_start,
    step_context_len,
    num_tokens,
    num_requests,
    num_rows,
    width,
    overlapped: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """One request, whose row no other program touches; behind all of them, one block of tokens."""
    await_inputs(overlapped)
    request = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    if request < num_requests:
        end = tl.load(page_start + request + 1)
        for start in range(tl.load(page_start + request), end, BLOCK):
            new = start + lane
            place = tl.load(places + new, mask=new < end, other=0)
            tl.store(table + place, tl.load(pages + new, mask=new < end, other=0).to(tl.int32), mask=new < end)
        tl.debug_barrier()  # other threads read what these wrote
        row = tl.load(rows + request)
        for start in range(0, width, BLOCK):
            column = start + lane
            page = tl.load(table + row * width + column, mask=column < width, other=0)
            tl.store(step_table + request.to(tl.int64) * width + column, page, mask=column < width)
        tl.store(step_context_len + request, tl.load(context_len + request).to(tl.int32))
        tl.store(step_query_start + request, tl.load(query_start + request).to(tl.int32))
        if request == num_requests - 1:
            tl.store(step_query_start + num_requests, tl.load(query_start + num_requests).to(tl.int32))
    else:
        token = (request - num_requests) * BLOCK + lane
        token_id = tl.load(token_ids + token, mask=token < num_tokens, other=0)
        last = tl.load(last_tokens + num_rows + token_id, mask=token_id < 0, other=0)
        tl.store(input_ids + token, tl.where(token_id < 0, last, token_id), mask=token < num_tokens)


def begin_step(step: PackedStep[Tensor], table: Tensor, last_tokens: Tensor) -> tuple[Tensor, ...]:
    """What `autodeploy.runtime.tables.begin_step` does."""
    num_tokens, num_requests, width = len(step.token_ids), len(step.rows), table.shape[1]
    input_ids = torch.empty_like(step.token_ids)
    step_table, query_start, context_len = (
        torch.empty(shape, dtype=torch.int32, device=table.device)
        for shape in ((num_requests, width), (num_requests + 1,), (num_requests,))
    )
    _begin_kernel[(num_requests + triton.cdiv(num_tokens, BLOCK),)](
        step.token_ids,
        step.rows,
        step.context_len,
        step.query_start,
        step.page_start,
        step.places,
        step.pages,
        table,
        last_tokens,
        input_ids,
        step_table,
        query_start,
        context_len,
        num_tokens,
        num_requests,
        len(last_tokens),
        width,
        BLOCK=BLOCK,
        num_warps=8,
        **overlap(table.device),
    )
    return input_ids, step_table, query_start, context_len
