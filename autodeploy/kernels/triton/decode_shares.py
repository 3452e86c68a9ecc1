"""How the keys of a row are cut into shares, and how what programs found of them becomes one."""

from __future__ import annotations

import triton
import triton.language as tl

MAX_SHARES = 128
FEW_SHARES = 8  # up to here all are merged by one kernel: each other would take seconds to compile


def num_shares(pairs: int, max_context: int, least_keys: int, processors: int) -> int:
    """Into how many shares the contexts of some pairs of row and key-value head are cut at most.

    Few pairs are cut until two programs a multiprocessor are at hand: more would only be more to merge. Many pairs,
    which may have contexts of very different lengths, are cut until there are eight.
    """
    wanted = -(-(2 if pairs < 2 * processors else 8) * processors // max(pairs, 1))
    return max(1, min(wanted, -(-max_context // least_keys), MAX_SHARES))


@triton.jit
def cut_keys(keys, num_shares, least_keys, BLOCK_KEYS: tl.constexpr):  # noqa: N803
    """How many keys are shared out, at least one, and how many a share has, in whole tiles."""
    span = tl.maximum(keys, 1)
    used = tl.minimum(num_shares, 8 + span // 512)  # merging a share takes as long as reading some keys
    length = tl.maximum(tl.cdiv(span, used), least_keys)
    return span, tl.cdiv(length, BLOCK_KEYS) * BLOCK_KEYS


@triton.jit
def leave_part(
    shares,
    tops,
    totals,
    part,
    lane,
    column,
    real,
    wanted,
    largest,
    total,
    values,
    group: tl.constexpr,
    width: tl.constexpr,
):
    """Write what a program found: the tops and totals of its rows, and the sums `values [Dv, rows]`."""
    at = part * group + lane
    tl.store(tops + at, largest, mask=real)
    tl.store(totals + at, total, mask=real)
    tl.store(shares + at[None, :] * width + column[:, None], values, mask=wanted)
    tl.debug_barrier()  # every thread's part is written before the count says so


@triton.jit
def merge_parts(
    shares,
    tops,
    totals,
    start,
    used,
    lane,
    column,
    real,
    wanted,
    group: tl.constexpr,
    width: tl.constexpr,
    WIDTH: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    SHARES: tl.constexpr,  # noqa: N803
):
    """The attention `[Dv, rows]` of `used` parts from `start` on, added in their order."""
    which = tl.arange(0, SHARES)
    present = (which[:, None] < used) & real[None, :]
    from_shares = start * group + which[:, None] * group + lane[None, :]
    all_tops = tl.load(tops + from_shares, mask=present, other=float("-inf"), cache_modifier=".cg")
    all_totals = tl.load(totals + from_shares, mask=present, other=0.0, cache_modifier=".cg")
    top = tl.where(real, tl.max(all_tops, axis=0), 0.0)
    total = tl.where(real, tl.sum(all_totals * tl.exp2(all_tops - top[None, :]), axis=0), 1.0)
    merged = tl.zeros((WIDTH, ROWS), tl.float32)
    for one in tl.range(0, used, loop_unroll_factor=4):
        at = (start + one) * group + lane
        its_top = tl.load(tops + at, mask=real, other=float("-inf"), cache_modifier=".cg")
        part = tl.load(shares + at[None, :] * width + column[:, None], mask=wanted, other=0.0, cache_modifier=".cg")
        merged += part * tl.exp2(its_top - top)[None, :]
    return merged / total[None, :]
