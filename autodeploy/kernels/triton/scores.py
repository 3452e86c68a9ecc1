"""What attention does to its scores, in powers of two: the hardware's exponential is `exp2`."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def bend(
    scores,
    scale,
    softcap,
    slopes,
    distance,
    has_softcap: tl.constexpr,
):
    """Soft cap and ALiBi: the scores `s` and the factor `f` such that the weights are `exp2(s * f)`."""
    if has_softcap:
        scores = softcap * (2.0 * tl.sigmoid(scores * (2.0 * scale / softcap)) - 1.0)
        factor = LOG2_E
    else:
        factor = scale * LOG2_E
    if slopes is not None:
        scores = scores * factor - (slopes * LOG2_E) * distance
        factor = factor * 0.0 + 1.0
    return scores, factor


@triton.jit
def key_rows(page_table, tile, stop, kv_head, kv_heads: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr):  # noqa: N803
    """The rows of the flattened cache that hold the keys of the tile that starts at key `tile`, of `stop` in all."""
    lane = tl.arange(0, TILE)
    if PAGE % TILE == 0:  # the tile lies in one page
        page = tl.load(page_table + tile // PAGE).to(tl.int64)
        rows = (page * kv_heads + kv_head) * PAGE + tile % PAGE + lane
    else:
        key = tile + lane
        page = tl.load(page_table + key // PAGE, mask=key < stop, other=0).to(tl.int64)
        rows = (page * kv_heads + kv_head) * PAGE + key % PAGE
    return rows
