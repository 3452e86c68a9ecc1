"""A row's queries over a stretch of the cache, in tiles of keys, with the softmax found on the way."""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.narrow import widen
from autodeploy.kernels.triton.scores import bend, key_rows


@triton.jit
def walk_keys(
    queries,
    unit,
    key_pages,
    value_pages,
    table,
    first,
    last,
    cached,
    stop,
    kv_head,
    key_column,
    value_column,
    slopes,
    scale,
    softcap,
    window,
    largest,
    total,
    values,
    kv_heads: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    has_softcap: tl.constexpr,
    has_window: tl.constexpr,
    PAGE: tl.constexpr,  # noqa: N803
    BLOCK_KEYS: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
):
    """Join the keys `first` to `last`, of which the cache holds `cached`, to what queries `[D, rows]` have seen.

    That is the tops and totals of the weights, `[rows]`, and the sums `values [Dv, rows]`. Queries are in units of
    `unit [1, rows]` (None: 1). The row sees keys before `stop`, and of these a window's.
    """
    if slopes is not None:
        slopes = slopes[None, :]
    for tile in tl.range(first, last, BLOCK_KEYS, num_stages=STAGES):
        key = tile + tl.arange(0, BLOCK_KEYS)
        known = key < cached
        at = key_rows(table, tile, cached, kv_head, kv_heads, PAGE, BLOCK_KEYS)
        keys = tl.load(
            key_pages + at[:, None] * key_width + key_column[None, :],
            mask=known[:, None] & (key_column[None, :] < key_width),
            other=0.0,
        )
        tile_values = _read_values(value_pages, at, known, value_column, value_width, queries.dtype)
        scores = tl.dot(widen(keys, queries.dtype), queries, input_precision="ieee")
        if unit is not None:
            scores *= unit
        scores, factor = bend(scores, scale, softcap, slopes, (stop - 1 - key)[:, None], has_softcap)
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
    return largest, total, values


@triton.jit
def _read_values(pages, at, known, column, width: tl.constexpr, dtype: tl.constexpr):
    """The values `[Dv, keys]` of the cache's rows `at`: those of 8 bits in dtype."""
    if pages.dtype.element_ty.primitive_bitwidth == 8:  # bytes cannot be swapped on their way: halves can
        values = tl.load(
            pages + at[:, None] * width + column[None, :], mask=known[:, None] & (column[None, :] < width), other=0.0
        )
        values = tl.trans(widen(values, dtype))
    else:
        values = tl.load(
            pages + at[None, :] * width + column[:, None], mask=known[None, :] & (column[:, None] < width), other=0.0
        )
    return values
