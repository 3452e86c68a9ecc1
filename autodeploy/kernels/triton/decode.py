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

from autodeploy.kernels.triton.fresh import fold, read_fresh
from autodeploy.kernels.triton.launch import await_inputs, multiprocessors, overlap
from autodeploy.kernels.triton.narrow import as_halves, widen
from autodeploy.kernels.triton.paged import Fresh, Paged, Scoring
from autodeploy.kernels.triton.rope import read_turned
from autodeploy.kernels.triton.scores import bend, key_rows
from autodeploy.kernels.triton.shares import MAX_TILES, counters

MAX_SHARES = 128
FEW_SHARES = 8  # up to here all are merged by one kernel: each other would take seconds to compile


@dataclass(frozen=True)
class DecodeConfig:
    """Keys a turn; programs a row and key-value head (0: chosen by `num_shares`); the least keys of a share."""

    block_keys: int = 64
    shares: int = 0
    least_keys: int = 64
    num_warps: int = 4
    num_stages: int = 3


def num_shares(pairs: int, max_context: int, least_keys: int, processors: int) -> int:
    """Into how many shares the contexts of some pairs of row and key-value head are cut at most.

    Few pairs are cut until two programs a multiprocessor are at hand: more would only be more to merge. Many pairs,
    which may have contexts of very different lengths, are cut until there are eight.
    """
    wanted = -(-(2 if pairs < 2 * processors else 8) * processors // max(pairs, 1))
    return max(1, min(wanted, -(-max_context // least_keys), MAX_SHARES))


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
    request = tl.minimum(tl.program_id(0), requests - 1)  # of a decode step, row i is request i's
    begin = tl.load(query_start + request)  # these loads do not wait for each other
    end = tl.load(query_start + request + 1)
    context = tl.load(context_len + request)
    rows = tl.load(query_start + requests)
    if writes:
        row = tl.program_id(0)
        if (row < begin) | (row >= end):
            request = tl.minimum(_owner(query_start, row, requests), requests - 1)
            begin = tl.load(query_start + request)
            end = tl.load(query_start + request + 1)
            context = tl.load(context_len + request)
    else:  # requests of several rows are left to the prefill kernel
        row = begin
        if end - begin != 1:
            return
    position = context - end + row
    stop = position + 1
    cached = stop
    if writes:  # what this launch writes, it reads from k and v; padding rows see nothing
        cached = tl.where(row < rows, context - end + begin, 0)
    oldest = stop * 0
    if has_window:
        oldest = tl.maximum(stop - window, 0) // BLOCK_KEYS * BLOCK_KEYS
    span = tl.maximum(cached - oldest, 1)
    used = tl.minimum(num_shares, 8 + span // 512)  # merging a share takes as long as reading some keys
    length = tl.maximum(tl.cdiv(span, used), least_keys)
    length = tl.cdiv(length, BLOCK_KEYS) * BLOCK_KEYS
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
    key_type: tl.constexpr = key_pages.dtype.element_ty
    value_type: tl.constexpr = value_pages.dtype.element_ty
    turned = queries
    if writes:
        own_key, own_value = read_fresh(
            k, v, cos, sin, row64, k_stride, v_stride, kv_head, key_unit, value_unit, key_column, value_column,
            key_width, value_width, rotary, interleaved, key_type, value_type,
        )  # fmt: skip
        own_slot = tl.load(slots + row)
    halved: tl.constexpr = key_type.primitive_bitwidth == 8 and queries.dtype == tl.bfloat16
    if halved:
        queries, unit = as_halves(queries, 0)
    slopes = None
    if alibi_slopes is not None:
        slopes = tl.load(alibi_slopes + head, mask=real, other=0.0)[None, :]
    largest = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_ROWS,), tl.float32)
    if sinks is not None:
        sink = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32) * 1.4426950408889634
        largest = tl.where(share == 0, sink, largest)
        total = tl.where(share == 0, 1.0, total)
    values = tl.zeros((VALUE_WIDTH, BLOCK_ROWS), tl.float32)

    table = page_table + tl.cast(request, tl.int64) * table_stride
    for tile in tl.range(first, tl.minimum(first + length, cached), BLOCK_KEYS, num_stages=STAGES):
        key = tile + tl.arange(0, BLOCK_KEYS)
        known = key < cached
        at = key_rows(table, tile, cached, kv_head, kv_heads, PAGE, BLOCK_KEYS)
        keys = tl.load(
            key_pages + at[:, None] * key_width + key_column[None, :],
            mask=known[:, None] & (key_column[None, :] < key_width),
            other=0.0,
        )
        if value_type.primitive_bitwidth == 8:  # bytes cannot be swapped on their way: halves can
            tile_values = tl.load(
                value_pages + at[:, None] * value_width + value_column[None, :],
                mask=known[:, None] & (value_column[None, :] < value_width),
                other=0.0,
            )
            tile_values = tl.trans(widen(tile_values, queries.dtype))
        else:
            tile_values = tl.load(
                value_pages + at[None, :] * value_width + value_column[:, None],
                mask=known[None, :] & (value_column[:, None] < value_width),
                other=0.0,
            )
        scores = tl.dot(widen(keys, queries.dtype), queries, input_precision="ieee")
        if halved:
            scores *= unit
        scores, factor = bend(scores, scale, softcap, slopes, (position - key)[:, None], has_softcap)
        visible = known
        if has_window:
            visible = known & (key >= stop - window)
        scores = tl.where(visible[:, None], scores, float("-inf"))
        top = tl.maximum(largest, tl.max(scores, axis=0) * factor)
        safe = top
        if has_window:  # the cache may hold nothing that the row still sees
            safe = tl.where(top == float("-inf"), 0.0, top)
        keep = tl.exp2(largest - safe)
        weights = tl.exp2(scores * factor - safe[None, :])
        total = total * keep + tl.sum(weights, axis=0)
        values = values * keep[None, :]
        values = tl.dot(tile_values, weights.to(queries.dtype), values, input_precision="ieee")
        largest = top

    if value_unit is not None:
        values *= value_unit
    if writes and share == 0:
        line = (own_slot // PAGE * kv_heads + kv_head) * PAGE + own_slot % PAGE
        tl.store(key_pages + line * key_width + key_column, own_key, mask=key_column < key_width)
        tl.store(value_pages + line * value_width + value_column, own_value, mask=value_column < value_width)
        own_slopes = None
        if alibi_slopes is not None:
            own_slopes = tl.load(alibi_slopes + head, mask=real, other=0.0)
        largest, total, values = fold(
            turned, own_key, own_value, value_unit, own_slopes, 0, scale, softcap, largest, total, values, has_softcap
        )
        other = row  # of the same request, where it has several
        if has_window:
            begin = tl.maximum(begin, row - window + 1)
        while (other > begin) & (row < rows):
            other -= 1
            key, value = read_fresh(
                k, v, cos, sin, tl.cast(other, tl.int64), k_stride, v_stride, kv_head, key_unit, value_unit,
                key_column, value_column, key_width, value_width, rotary, interleaved, key_type, value_type,
            )  # fmt: skip
            largest, total, values = fold(
                turned, key, value, value_unit, own_slopes, row - other, scale, softcap, largest, total, values,
                has_softcap,
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
    from_share = (slot * num_shares + share) * group + lane
    tl.store(tops + from_share, largest, mask=real)
    tl.store(totals + from_share, total, mask=real)
    tl.store(shares + from_share[None, :] * value_width + value_column[:, None], values, mask=wanted)
    tl.debug_barrier()  # every thread's part is written before the count says so
    if tl.atomic_add(counters + slot, 1, sem="acq_rel") != used - 1:
        return

    tl.debug_barrier()
    tl.store(counters + slot, 0)
    which = tl.arange(0, SHARES)
    present = (which[:, None] < used) & real[None, :]
    from_shares = slot * num_shares * group + which[:, None] * group + lane[None, :]
    all_tops = tl.load(tops + from_shares, mask=present, other=float("-inf"), cache_modifier=".cg")
    all_totals = tl.load(totals + from_shares, mask=present, other=0.0, cache_modifier=".cg")
    top = tl.where(real, tl.max(all_tops, axis=0), 0.0)
    total = tl.where(real, tl.sum(all_totals * tl.exp2(all_tops - top[None, :]), axis=0), 1.0)
    merged = tl.zeros((VALUE_WIDTH, BLOCK_ROWS), tl.float32)
    for one in tl.range(0, used, loop_unroll_factor=4):
        from_one = (slot * num_shares + one) * group + lane
        its_top = tl.load(tops + from_one, mask=real, other=float("-inf"), cache_modifier=".cg")
        part = tl.load(
            shares + from_one[None, :] * value_width + value_column[:, None],
            mask=wanted,
            other=0.0,
            cache_modifier=".cg",
        )
        merged += part * tl.exp2(its_top - top)[None, :]
    tl.store(to, (merged / total[None, :]).to(out.dtype.element_ty), mask=wanted)


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
