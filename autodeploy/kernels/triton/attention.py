"""Attention over a paged cache, in one kernel for decode, prefill and any mixture of them.

A program takes up to BLOCK_QUERIES rows of one request and one key-value head with all query heads that share it, so
that the cache is read once for the group. The grid is an upper bound known without reading the batch's tables: nothing
here waits for the device, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _write_cache_kernel(
    k,
    v,
    key_pages,
    value_pages,
    slots,
    query_start,
    out,
    k_stride,
    v_stride,
    out_stride,
    requests,
    page_size,
    kv_heads: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """Row t goes to slot slots[t]; a padding row also gets its zeros."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    page, offset = slot // page_size, slot % page_size
    for start in tl.static_range(0, kv_heads * key_width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < kv_heads * key_width
        to = ((page * kv_heads + at // key_width) * page_size + offset) * key_width + at % key_width
        tl.store(key_pages + to, tl.load(k + row * k_stride + at, mask=inside), mask=inside)
    for start in tl.static_range(0, kv_heads * value_width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < kv_heads * value_width
        to = ((page * kv_heads + at // value_width) * page_size + offset) * value_width + at % value_width
        tl.store(value_pages + to, tl.load(v + row * v_stride + at, mask=inside), mask=inside)
    if row >= tl.load(query_start + requests):
        for column in range(0, out_stride, BLOCK):
            columns = column + tl.arange(0, BLOCK)
            zeros = tl.zeros((BLOCK,), out.dtype.element_ty)
            tl.store(out + row * out_stride + columns, zeros, mask=columns < out_stride)


@triton.jit
def _paged_attention_kernel(
    q,
    key_pages,
    value_pages,
    query_start,
    context_len,
    page_table,
    sinks,
    out,
    q_stride,
    table_stride,
    requests,
    page_size,
    scale,
    softcap,
    window,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    has_softcap: tl.constexpr,
    has_window: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,  # noqa: N803
    BLOCK_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_KEYS: tl.constexpr,  # noqa: N803
    KEY_WIDTH: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
) -> None:
    program = tl.program_id(0)
    kv_head = tl.program_id(1)
    group: tl.constexpr = heads // kv_heads

    # Request b owns programs query_start[b] // BLOCK_QUERIES + b onwards: enough for its blocks, whatever its length.
    low, high = 0, requests
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start + middle) // BLOCK_QUERIES + middle <= program:
            low = middle + 1
        else:
            high = middle
    request = low - 1
    begin = tl.load(query_start + request)
    end = tl.load(query_start + request + 1)
    first = begin + (program - begin // BLOCK_QUERIES - request) * BLOCK_QUERIES
    if first >= end:
        return

    lane = tl.arange(0, BLOCK_ROWS)
    row = first + lane // group
    head = kv_head * group + lane % group
    real = (lane < BLOCK_QUERIES * group) & (row < end)
    position = tl.load(context_len + request) - end + row
    row64 = row.to(tl.int64)

    key_column = tl.arange(0, KEY_WIDTH)
    value_column = tl.arange(0, VALUE_WIDTH)
    queries = tl.load(
        q + row64[:, None] * q_stride + head[:, None] * key_width + key_column[None, :],
        mask=real[:, None] & (key_column[None, :] < key_width),
        other=0.0,
    )
    if sinks is not None:
        largest = tl.load(sinks + head, mask=real, other=0.0).to(tl.float32) * 1.4426950408889634
        total = tl.full((BLOCK_ROWS,), 1.0, tl.float32)
    else:
        largest = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_ROWS,), tl.float32)
    values = tl.zeros((BLOCK_ROWS, VALUE_WIDTH), tl.float32)

    stop = tl.load(context_len + request) - end + tl.minimum(end, first + BLOCK_QUERIES)
    oldest_tile = stop * 0  # a run-time value in both branches: Triton wants one type
    if has_window:
        oldest = tl.load(context_len + request) - end + first - window + 1
        oldest_tile = tl.maximum(oldest, 0) // BLOCK_KEYS * BLOCK_KEYS
    for tile in range(oldest_tile, stop, BLOCK_KEYS):
        key = tile + tl.arange(0, BLOCK_KEYS)
        known = key < stop
        page = tl.load(page_table + request * table_stride + key // page_size, mask=known, other=0).to(tl.int64)
        at = (page * kv_heads + kv_head) * page_size + key % page_size
        keys = tl.load(
            key_pages + at[None, :] * key_width + key_column[:, None],
            mask=known[None, :] & (key_column[:, None] < key_width),
            other=0.0,
        )
        scores = tl.dot(queries, keys, input_precision="ieee") * scale
        if has_softcap:
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        visible = key[None, :] <= position[:, None]
        if has_window:
            visible = visible & (key[None, :] > position[:, None] - window)
        scores = tl.where(visible, scores * 1.4426950408889634, float("-inf"))
        top = tl.maximum(largest, tl.max(scores, axis=1))
        safe = tl.where(top == float("-inf"), 0.0, top)  # a row that has seen nothing yet
        keep = tl.exp2(largest - safe)
        weights = tl.exp2(scores - safe[:, None])
        total = total * keep + tl.sum(weights, axis=1)
        tile_values = tl.load(
            value_pages + at[:, None] * value_width + value_column[None, :],
            mask=known[:, None] & (value_column[None, :] < value_width),
            other=0.0,
        )
        values = values * keep[:, None]
        values += tl.dot(weights.to(tile_values.dtype), tile_values, input_precision="ieee")
        largest = top

    values = values / tl.where(total > 0.0, total, 1.0)[:, None]
    tl.store(
        out + (row64[:, None] * heads + head[:, None]) * value_width + value_column[None, :],
        values.to(out.dtype.element_ty),
        mask=real[:, None] & (value_column[None, :] < value_width),
    )


def _dense_rows(x: Tensor) -> Tensor:
    """x with dense heads and elements; rows may be apart, as the parts of a joined projection are."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    page_table: Tensor,
    slots: Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """`ops.paged_attention` for heads of up to 256."""
    q, k, v = _dense_rows(q), _dense_rows(k), _dense_rows(v)
    rows, heads, key_width = q.shape
    kv_heads, value_width, requests = k.shape[1], v.shape[2], context_len.shape[0]
    out = torch.empty((rows, heads, value_width), dtype=q.dtype, device=q.device)
    if not rows:
        return out
    _write_cache_kernel[(rows,)](
        k,
        v,
        key_pages,
        value_pages,
        slots,
        query_start,
        out,
        k.stride(0),
        v.stride(0),
        out.stride(0),
        requests,
        key_pages.shape[2],
        kv_heads,
        key_width,
        value_width,
        BLOCK=min(triton.next_power_of_2(kv_heads * max(key_width, value_width)), 1024),
    )
    group = heads // kv_heads
    only_decode = rows <= requests
    block_queries = 1 if only_decode else max(1, 64 // triton.next_power_of_2(group))
    block_rows = max(16, triton.next_power_of_2(block_queries * group))  # 16: the least that tl.dot takes
    wide = max(key_width, value_width) > 128 or q.element_size() > 2
    _paged_attention_kernel[(rows // block_queries + requests, kv_heads)](
        q,
        key_pages,
        value_pages,
        query_start,
        context_len,
        page_table,
        None if sinks is None else sinks.contiguous(),
        out,
        q.stride(0),
        page_table.stride(0),
        requests,
        key_pages.shape[2],
        scale,
        softcap or 0.0,
        window or 0,
        heads,
        kv_heads,
        key_width,
        value_width,
        softcap is not None,
        window is not None,
        BLOCK_QUERIES=block_queries,
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=32 if wide else 64,
        KEY_WIDTH=max(16, triton.next_power_of_2(key_width)),
        VALUE_WIDTH=max(16, triton.next_power_of_2(value_width)),
        num_warps=4,
    )
    return out
