"""Attention of many rows over a paged cache (Dao, 2023).

A program takes consecutive rows of one request and one key-value head with all query heads that share it, so that the
cache is read once for the group, and few tiles of keys meet the causal edge. The grid is an upper bound known without
reading the batch's tables; the programs with the longest contexts start first.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.narrow import as_halves, widen
from autodeploy.kernels.triton.paged import Paged, Scoring
from autodeploy.kernels.triton.scores import bend, key_rows


@dataclass(frozen=True)
class PrefillConfig:
    """Query rows (of all heads that share keys) a program, and keys a turn."""

    block_rows: int = 256
    block_keys: int = 64
    num_warps: int = 8
    num_stages: int = 3


@triton.jit
def _owner(query_start, requests, program, BLOCK_QUERIES: tl.constexpr):  # noqa: N803
    """The request of a program, by counting: few loads that do not wait for each other.

    Request b owns programs query_start[b] // BLOCK_QUERIES + b onwards: enough for its blocks, whatever its length.
    """
    count = requests * 0
    for start in range(0, requests, 128):
        request = start + tl.arange(0, 128)
        begin = tl.load(query_start + request, mask=request < requests, other=0)
        count += tl.sum(((request < requests) & (begin // BLOCK_QUERIES + request <= program)).to(tl.int32), axis=0)
    return count - 1


@triton.jit
def _attend_tiles(
    queries,
    unit,
    values,
    largest,
    total,
    key_pages,
    value_pages,
    table,
    kv_head,
    position,
    begin,
    stop,
    scale,
    softcap,
    slopes,
    window,
    kv_heads: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    has_softcap: tl.constexpr,
    has_window: tl.constexpr,
    masked: tl.constexpr,
    PAGE: tl.constexpr,  # noqa: N803
    BLOCK_KEYS: tl.constexpr,  # noqa: N803
    KEY_WIDTH: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
):
    """Go on with keys `begin` to `stop`; unless `masked`, every row sees them all, and they are whole tiles."""
    key_column = tl.arange(0, KEY_WIDTH)
    value_column = tl.arange(0, VALUE_WIDTH)
    for tile in tl.range(begin, stop, BLOCK_KEYS, num_stages=STAGES):
        key = tile + tl.arange(0, BLOCK_KEYS)
        known = key < stop
        at = key_rows(table, tile, stop, kv_head, kv_heads, PAGE, BLOCK_KEYS)
        from_keys = key_pages + at[:, None] * key_width + key_column[None, :]
        from_values = value_pages + at[:, None] * value_width + value_column[None, :]
        if masked or key_width < KEY_WIDTH or value_width < VALUE_WIDTH:
            keys = tl.load(from_keys, mask=known[:, None] & (key_column[None, :] < key_width), other=0.0)
        else:
            keys = tl.load(from_keys)
        scores = tl.dot(queries, tl.trans(widen(keys, queries.dtype)), input_precision="ieee")
        if unit is not None:
            scores *= unit
        distance = position[:, None] - key[None, :]
        scores, factor = bend(scores, scale, softcap, slopes, distance, has_softcap)
        if masked:
            visible = distance >= 0
            if has_window:
                visible = visible & (distance < window)
            scores = tl.where(visible, scores, float("-inf"))
        top = tl.maximum(largest, tl.max(scores, axis=1) * factor)
        safe = top
        if has_window:  # a row may have seen nothing yet
            safe = tl.where(top == float("-inf"), 0.0, top)
        keep = tl.exp2(largest - safe)
        weights = tl.exp2(scores * factor - safe[:, None])
        total = total * keep + tl.sum(weights, axis=1)
        values = values * keep[:, None]
        if masked or key_width < KEY_WIDTH or value_width < VALUE_WIDTH:
            tile_values = tl.load(from_values, mask=known[:, None] & (value_column[None, :] < value_width), other=0.0)
        else:
            tile_values = tl.load(from_values)
        values = tl.dot(weights.to(queries.dtype), widen(tile_values, queries.dtype), values, input_precision="ieee")
        largest = top
    return values, largest, total


@triton.jit(do_not_specialize=["requests"])  # it differs from step to step
def _prefill_kernel(
    q,
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
    q_stride,
    table_stride,
    requests,
    scale,
    softcap,
    window,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    has_softcap: tl.constexpr,
    has_window: tl.constexpr,
    overlapped: tl.constexpr,
    PAGE: tl.constexpr,  # noqa: N803
    BLOCK_QUERIES: tl.constexpr,  # noqa: N803
    BLOCK_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_KEYS: tl.constexpr,  # noqa: N803
    KEY_WIDTH: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    await_inputs(overlapped)
    kv_head = tl.program_id(0)
    program = tl.num_programs(1) - 1 - tl.program_id(1)
    group: tl.constexpr = heads // kv_heads

    request = _owner(query_start, requests, program, BLOCK_QUERIES)
    begin = tl.load(query_start + request)
    end = tl.load(query_start + request + 1)
    first = begin + (program - begin // BLOCK_QUERIES - request) * BLOCK_QUERIES
    if (first >= end) | (end - begin == 1):  # single rows are the decode kernel's
        return

    lane = tl.arange(0, BLOCK_ROWS)
    row = first + lane // group
    head = kv_head * group + lane % group
    real = (lane < BLOCK_QUERIES * group) & (row < end)
    past = tl.load(context_len + request) - end  # a row's position is this and its number
    position = past + row
    row64 = row.to(tl.int64)

    key_column = tl.arange(0, KEY_WIDTH)
    value_column = tl.arange(0, VALUE_WIDTH)
    queries = tl.load(
        q + row64[:, None] * q_stride + head[:, None] * key_width + key_column[None, :],
        mask=real[:, None] & (key_column[None, :] < key_width),
        other=0.0,
    )
    unit = None
    if key_pages.dtype.element_ty.primitive_bitwidth == 8 and queries.dtype == tl.bfloat16:
        queries, unit = as_halves(queries, 1)
    slopes = None
    if alibi_slopes is not None:
        slopes = tl.load(alibi_slopes + head, mask=real, other=0.0)[:, None]
    if sinks is not None:
        largest = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32) * 1.4426950408889634
        total = tl.full((BLOCK_ROWS,), 1.0, tl.float32)
    else:
        largest = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_ROWS,), tl.float32)
    values = tl.zeros((BLOCK_ROWS, VALUE_WIDTH), tl.float32)

    if key_scale is not None:
        scale *= tl.load(key_scale + kv_head)
    table = page_table + tl.cast(request, tl.int64) * table_stride
    stop = past + tl.minimum(end, first + BLOCK_QUERIES)
    edge = stop * 0  # from here on, some row does not see some key
    if has_window:
        edge = tl.maximum(past + first - window + 1, 0) // BLOCK_KEYS * BLOCK_KEYS
    else:
        edge = (past + first + 1) // BLOCK_KEYS * BLOCK_KEYS
        values, largest, total = _attend_tiles(
            queries, unit, values, largest, total, key_pages, value_pages, table, kv_head, position, edge * 0, edge,
            scale, softcap, slopes, window, kv_heads, key_width, value_width, has_softcap, has_window, False,
            PAGE, BLOCK_KEYS, KEY_WIDTH, VALUE_WIDTH, STAGES,
        )  # fmt: skip
    values, largest, total = _attend_tiles(
        queries, unit, values, largest, total, key_pages, value_pages, table, kv_head, position, edge, stop,
        scale, softcap, slopes, window, kv_heads, key_width, value_width, has_softcap, has_window, True,
        PAGE, BLOCK_KEYS, KEY_WIDTH, VALUE_WIDTH, STAGES,
    )  # fmt: skip
    if value_scale is not None:
        values *= tl.load(value_scale + kv_head)
    values = values / tl.where(total > 0.0, total, 1.0)[:, None]
    tl.store(
        out + (row64[:, None] * heads + head[:, None]) * value_width + value_column[None, :],
        values.to(out.dtype.element_ty),
        mask=real[:, None] & (value_column[None, :] < value_width),
    )


def prefill(
    q: Tensor,
    paged: Paged,
    scoring: Scoring,
    out: Tensor,
    config: PrefillConfig,
) -> None:
    """Fill the rows of `out [T, H, Dv]` that belong to requests of several rows."""
    rows, heads, key_width = q.shape
    _, kv_heads, page_size, value_width = paged.value_pages.shape
    requests = paged.context_len.shape[0]
    group = heads // kv_heads
    block_queries = max(1, config.block_rows // triton.next_power_of_2(group))
    _prefill_kernel[(kv_heads, rows // block_queries + requests)](
        q,
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
        q.stride(0),
        paged.page_table.stride(0),
        requests,
        scoring.scale,
        scoring.softcap or 0.0,
        scoring.window or 0,
        heads,
        kv_heads,
        key_width,
        value_width,
        scoring.softcap is not None,
        scoring.window is not None,
        PAGE=page_size,
        BLOCK_QUERIES=block_queries,
        BLOCK_ROWS=max(16, triton.next_power_of_2(block_queries * group)),
        BLOCK_KEYS=config.block_keys,
        KEY_WIDTH=max(16, triton.next_power_of_2(key_width)),
        VALUE_WIDTH=max(16, triton.next_power_of_2(value_width)),
        STAGES=config.num_stages,
        num_warps=config.num_warps,
        **overlap(q.device),
    )
