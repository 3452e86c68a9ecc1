"""What a step adds to the cache, for a kernel that attends over it in the same launch."""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.narrow import narrow
from autodeploy.kernels.triton.rope import read_turned
from autodeploy.kernels.triton.scores import bend


@triton.jit
def read_fresh(
    k,
    v,
    cos,
    sin,
    row,
    k_stride,
    v_stride,
    kv_head,
    key_unit,
    value_unit,
    key_column,
    value_column,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
    key_type: tl.constexpr,
    value_type: tl.constexpr,
):
    """A row's key, turned, and its value of one head, as pages hold them."""
    from_k = k + row * k_stride + kv_head * key_width
    key = read_turned(from_k, key_column, key_column < key_width, cos, sin, row, rotary, interleaved)
    from_v = v + row * v_stride + kv_head * value_width
    value = tl.load(from_v + value_column, mask=value_column < value_width, other=0.0)
    return narrow(key, key_unit, key_type), narrow(value, value_unit, value_type)


@triton.jit
def fold(
    queries,
    key,
    value,
    value_unit,
    slopes,
    distance,
    scale,
    softcap,
    largest,
    total,
    values,
    has_softcap: tl.constexpr,
):
    """A key and its value, joined to what queries `[D, rows]` have seen: tops, totals and sums `values [Dv, rows]`."""
    scores = tl.sum(queries.to(tl.float32) * key.to(tl.float32)[:, None], axis=0)
    scores, factor = bend(scores, scale, softcap, slopes, distance, has_softcap)
    scores *= factor
    top = tl.maximum(largest, scores)
    keep, weights = tl.exp2(largest - top), tl.exp2(scores - top)
    value = value.to(tl.float32)
    if value_unit is not None:
        value *= value_unit
    rounded = weights.to(queries.dtype).to(tl.float32)  # as the weights of a tile are
    return top, total * keep + weights, values * keep[None, :] + value[:, None] * rounded[None, :]


@triton.jit
def write_fresh(
    key_pages,
    value_pages,
    key,
    value,
    slot,
    kv_head,
    key_column,
    value_column,
    kv_heads: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    PAGE: tl.constexpr,  # noqa: N803
):
    """Write a row's key and value of one head to its slot."""
    line = (slot // PAGE * kv_heads + kv_head) * PAGE + slot % PAGE
    tl.store(key_pages + line * key_width + key_column, key, mask=key_column < key_width)
    tl.store(value_pages + line * value_width + value_column, value, mask=value_column < value_width)


@triton.jit
def join_rows_before(
    queries,
    k,
    v,
    cos,
    sin,
    earliest,
    row,
    rows,
    k_stride,
    v_stride,
    kv_head,
    key_unit,
    value_unit,
    key_column,
    value_column,
    slopes,
    scale,
    softcap,
    largest,
    total,
    values,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
    key_type: tl.constexpr,
    value_type: tl.constexpr,
    has_softcap: tl.constexpr,
):
    """Join the rows `earliest` to `row`, without it, to what that row's queries have seen; none where it is padding."""
    other = row
    while (other > earliest) & (row < rows):
        other -= 1
        key, value = read_fresh(
            k, v, cos, sin, tl.cast(other, tl.int64), k_stride, v_stride, kv_head, key_unit, value_unit, key_column,
            value_column, key_width, value_width, rotary, interleaved, key_type, value_type,
        )  # fmt: skip
        largest, total, values = fold(
            queries, key, value, value_unit, slopes, row - other, scale, softcap, largest, total, values, has_softcap
        )
    return largest, total, values
