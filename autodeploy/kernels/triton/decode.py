"""Attention of single rows over a paged cache, split over the cache (flash-decoding; Dao et al., 2023).

A program takes one row, one key-value head with all query heads that share it, and one share of the context. Keys and
values are the left operands of the matrix units, so that the cache, not the few queries, fills the instructions. The
last program of a row and head to finish merges the shares, in the order of the shares: no second launch, and results
that do not depend on who was last. How many shares there are follows from shapes alone, how long they are from the
context: nothing waits for the device.

In a step of decode rows alone the kernel writes the cache too, and turns queries and keys on the way: what a row adds
is read from the projection, since nobody may read what another program of the same launch writes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.decode_shares import FEW_SHARES, cut_keys, leave_part, merge_parts, num_shares
from autodeploy.kernels.triton.decode_walk import walk_keys
from autodeploy.kernels.triton.fresh import fold, join_rows_before, read_fresh, write_fresh
from autodeploy.kernels.triton.launch import await_inputs, multiprocessors, overlap
from autodeploy.kernels.triton.narrow import as_halves
from autodeploy.kernels.triton.paged import Fresh, Paged, Scoring
from autodeploy.kernels.triton.rope import read_turned
from autodeploy.kernels.triton.scores import LOG2_E
from autodeploy.kernels.triton.shares import MAX_TILES, counters


@dataclass(frozen=True)
class DecodeConfig:
    """Keys a turn; programs a row and key-value head (0: chosen by `num_shares`); the least keys of a share."""

    block_keys: int = 64
    shares: int = 0
    least_keys: int = 64
    num_warps: int = 4
    num_stages: int = 3


@triton.jit
def _owner(query_start, row, requests):
    """The request that owns a row, by bisection."""
    low, high = requests * 0, requests
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start + middle + 1) <= row:
            low = middle + 1
        else:
            high = middle
    return low


@triton.jit
def _find_row(query_start, context_len, requests, writes: tl.constexpr):
    """A program's request and row, the request's first row and last plus one, its context, and all rows."""
    request = tl.minimum(tl.program_id(0), requests - 1)  # of a decode step, row i is request i's
    begin = tl.load(query_start + request)  # these loads do not wait for each other
    end = tl.load(query_start + request + 1)
    context = tl.load(context_len + request)
    rows = tl.load(query_start + requests)
    row = begin
    if writes:
        row = tl.program_id(0)
        if (row < begin) | (row >= end):
            request = tl.minimum(_owner(query_start, row, requests), requests - 1)
            begin = tl.load(query_start + request)
            end = tl.load(query_start + request + 1)
            context = tl.load(context_len + request)
    return request, row, begin, end, context, rows


@triton.jit
def _begin(sinks, head, real, takes_sinks, VALUE_WIDTH: tl.constexpr):  # noqa: N803
    """What queries have seen before any key, or after their sinks: tops, totals and sums `[Dv, rows]`."""
    largest = tl.full((head.numel,), float("-inf"), tl.float32)
    total = tl.zeros((head.numel,), tl.float32)
    if sinks is not None:
        sink = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32) * LOG2_E
        largest = tl.where(takes_sinks, sink, largest)
        total = tl.where(takes_sinks, 1.0, total)
    return largest, total, tl.zeros((VALUE_WIDTH, head.numel), tl.float32)


@triton.jit(do_not_specialize=["requests", "num_shares"])  # they differ from step to step
def _decode_kernel(
    q,
    k,
    v,
    cos,
    sin,
    slots,
    key_pages,
    value_pages,
    key_scale,
    value_scale,
    query_start,
    context_len,
    page_table,
    sinks,
    alibi_slopes,
    out,
    shares,
    tops,
    totals,
    counters,
    q_stride,
    k_stride,
    v_stride,
    table_stride,
    requests,
    num_shares,
    least_keys,
    scale,
    softcap,
    window,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    has_softcap: tl.constexpr,
    has_window: tl.constexpr,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
    writes: tl.constexpr,
    overlapped: tl.constexpr,
    PAGE: tl.constexpr,  # noqa: N803
    BLOCK_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_KEYS: tl.constexpr,  # noqa: N803
    KEY_WIDTH: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
    SHARES: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    await_inputs(overlapped)
    kv_head = tl.program_id(1)
    share = tl.program_id(2)
    request, row, begin, end, context, rows = _find_row(query_start, context_len, requests, writes)
    if not writes and end - begin != 1:  # requests of several rows are left to the prefill kernel
        return
    stop = context - end + row + 1
    cached = stop
    if writes:  # what this launch writes, it reads from k and v; padding rows see nothing
        cached = tl.where(row < rows, context - end + begin, 0)
    oldest = stop * 0
    if has_window:
        oldest = tl.maximum(stop - window, 0) // BLOCK_KEYS * BLOCK_KEYS
    span, length = cut_keys(cached - oldest, num_shares, least_keys, BLOCK_KEYS)
    first = oldest + share * length
    if (share > 0) & (first >= cached):
        return

    group: tl.constexpr = heads // kv_heads
    lane = tl.arange(0, BLOCK_ROWS)
    head = kv_head * group + lane
    real = lane < group
    key_column = tl.arange(0, KEY_WIDTH)
    value_column = tl.arange(0, VALUE_WIDTH)
    row64 = tl.cast(row, tl.int64)
    known_queries = real[None, :] & (key_column[:, None] < key_width)
    from_q = q + row64 * q_stride + head[None, :] * key_width
    queries = read_turned(from_q, key_column[:, None], known_queries, cos, sin, row64, rotary, interleaved)
    key_unit, value_unit = None, None
    if key_scale is not None:
        key_unit = tl.load(key_scale + kv_head)
        scale *= key_unit
    if value_scale is not None:
        value_unit = tl.load(value_scale + kv_head)
    if writes:
        own_key, own_value = read_fresh(
            k, v, cos, sin, row64, k_stride, v_stride, kv_head, key_unit, value_unit, key_column, value_column,
            key_width, value_width, rotary, interleaved, key_pages.dtype.element_ty, value_pages.dtype.element_ty,
        )  # fmt: skip
        own_slot = tl.load(slots + row)
    halves, unit = queries, None
    if key_pages.dtype.element_ty.primitive_bitwidth == 8 and queries.dtype == tl.bfloat16:
        halves, unit = as_halves(queries, 0)
    slopes = None
    if alibi_slopes is not None:
        slopes = tl.load(alibi_slopes + head, mask=real, other=0.0)
    largest, total, values = _begin(sinks, head, real, share == 0, VALUE_WIDTH)
    table = page_table + tl.cast(request, tl.int64) * table_stride
    largest, total, values = walk_keys(
        halves, unit, key_pages, value_pages, table, first, tl.minimum(first + length, cached), cached, stop, kv_head,
        key_column, value_column, slopes, scale, softcap, window, largest, total, values, kv_heads, key_width,
        value_width, has_softcap, has_window, PAGE, BLOCK_KEYS, STAGES,
    )  # fmt: skip
    if value_unit is not None:
        values *= value_unit
    if writes and share == 0:
        write_fresh(
            key_pages, value_pages, own_key, own_value, own_slot, kv_head, key_column, value_column, kv_heads,
            key_width, value_width, PAGE,
        )  # fmt: skip
        largest, total, values = fold(
            queries, own_key, own_value, value_unit, slopes, 0, scale, softcap, largest, total, values, has_softcap
        )
        earliest = begin  # of the same request, where it has several rows
        if has_window:
            earliest = tl.maximum(begin, row - window + 1)
        largest, total, values = join_rows_before(
            queries, k, v, cos, sin, earliest, row, rows, k_stride, v_stride, kv_head, key_unit, value_unit, key_column,
            value_column, slopes, scale, softcap, largest, total, values, key_width, value_width, rotary, interleaved,
            own_key.dtype, own_value.dtype, has_softcap,
        )  # fmt: skip
        if row >= rows:
            values = tl.zeros((VALUE_WIDTH, BLOCK_ROWS), tl.float32)
            total = tl.full((BLOCK_ROWS,), 1.0, tl.float32)
    to = out + (row64 * heads + head[None, :]) * value_width + value_column[:, None]
    wanted = real[None, :] & (value_column[:, None] < value_width)
    used = tl.cdiv(span, length)
    if used == 1:
        tl.store(to, (values / total[None, :]).to(out.dtype.element_ty), mask=wanted)
        return
    slot = tl.cast(tl.program_id(0), tl.int64) * kv_heads + kv_head
    leave_part(
        shares, tops, totals, slot * num_shares + share, lane, value_column, real, wanted, largest, total, values,
        group, value_width,
    )  # fmt: skip
    if tl.atomic_add(counters + slot, 1, sem="acq_rel") != used - 1:
        return

    tl.debug_barrier()
    tl.store(counters + slot, 0)
    merged = merge_parts(
        shares, tops, totals, slot * num_shares, used, lane, value_column, real, wanted, group, value_width,
        VALUE_WIDTH, BLOCK_ROWS, SHARES,
    )  # fmt: skip
    tl.store(to, merged.to(out.dtype.element_ty), mask=wanted)


def decode(
    q: Tensor,
    paged: Paged,
    scoring: Scoring,
    out: Tensor,
    config: DecodeConfig,
    fresh: Fresh | None = None,
) -> None:
    """Fill the rows of `out [T, H, Dv]`.

    With `fresh`, those of a step without prompts: queries are turned, the cache is written, padding rows are zeroed.
    Otherwise the rows of one-row requests, over a cache that holds them.
    """
    rows, heads, key_width = q.shape
    _, kv_heads, page_size, value_width = paged.value_pages.shape
    requests = paged.context_len.shape[0]
    programs = rows if fresh else requests
    shares = config.shares or num_shares(
        programs * kv_heads, paged.page_table.shape[1] * page_size, config.least_keys, multiprocessors(q.device)
    )
    if programs * kv_heads > MAX_TILES:  # so many leave no processor idle
        shares = 1
    kept = shares if shares > 1 else 0  # a single share needs no memory of its own
    parts = torch.empty((programs, kept, heads, value_width), dtype=torch.float32, device=q.device)
    tops, totals = torch.empty((2, programs, kept, heads), dtype=torch.float32, device=q.device)
    _decode_kernel[(programs, kv_heads, shares)](
        q,
        fresh.k if fresh else None,
        fresh.v if fresh else None,
        fresh.cos if fresh else None,
        fresh.sin if fresh else None,
        fresh.slots if fresh else None,
        paged.key_pages,
        paged.value_pages,
        paged.key_scale,
        paged.value_scale,
        paged.query_start,
        paged.context_len,
        paged.page_table,
        scoring.sinks,
        scoring.alibi_slopes,
        out,
        parts,
        tops,
        totals,
        counters(q.device),
        q.stride(0),
        fresh.k.stride(0) if fresh else 0,
        fresh.v.stride(0) if fresh else 0,
        paged.page_table.stride(0),
        requests,
        shares,
        config.least_keys,
        scoring.scale,
        scoring.softcap or 0.0,
        scoring.window or 0,
        heads,
        kv_heads,
        key_width,
        value_width,
        scoring.softcap is not None,
        scoring.window is not None,
        fresh.rotary if fresh else 0,
        fresh.interleaved if fresh else False,
        writes=fresh is not None,
        PAGE=page_size,
        BLOCK_ROWS=max(8, triton.next_power_of_2(heads // kv_heads)),
        BLOCK_KEYS=config.block_keys,
        KEY_WIDTH=max(16, triton.next_power_of_2(key_width)),
        VALUE_WIDTH=max(16, triton.next_power_of_2(value_width)),
        SHARES=max(FEW_SHARES, triton.next_power_of_2(shares)),
        STAGES=config.num_stages,
        num_warps=config.num_warps,
        **overlap(q.device),
    )
