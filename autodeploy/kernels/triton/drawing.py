"""Drawing one token of a row without sorting it.

A row is held as distances: how far a token's scaled logit lies under the row's largest, so that `exp(-distance)` is its
weight. Nearest first is most likely first. What a sort would be read for (the k-th token, the token at which a
cumulated weight passes a bound) is found by bisection over distances, each step one pass over the row; once few tokens
are left that can matter, they are copied together in their order, and the passes become short.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
FAR = tl.constexpr(3.0e38)  # above every distance of a token that can be drawn


@triton.jit
def uniform_draw(key, position):
    """`runtime.draws.uniform_draws` of one key and position (bits of uint64): float64 in [0, 1)."""
    bits = key.to(tl.uint64, bitcast=True) + (position + 1).to(tl.uint64, bitcast=True) * 0x9E3779B97F4A7C15
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB
    bits = bits ^ (bits >> 31)
    return (bits >> 11).to(tl.float64) * 1.1102230246251565e-16


@triton.jit
def weight_of(distance):
    """The weight of tokens at some distances, as float64: sums of many then neither lose terms nor move backwards."""
    return tl.exp2(distance * -LOG2_E).to(tl.float64)


@triton.jit
def measure(distances, length, reach, BLOCK: tl.constexpr):  # noqa: N803
    """Of the tokens up to the distance `reach`: their number, their weight, the farthest; the nearest of the others."""
    counts = tl.zeros((BLOCK,), tl.int32)
    weights = tl.zeros((BLOCK,), tl.float64)
    lasts = tl.zeros((BLOCK,), tl.float32)
    followings = tl.full((BLOCK,), FAR, tl.float32)
    for start in range(0, length, BLOCK):  # what threads share is reduced once, at the end
        at = start + tl.arange(0, BLOCK)
        distance = tl.load(distances + at, mask=at < length, other=float("inf"))
        near = distance <= reach
        counts += near.to(tl.int32)
        weights += tl.where(near, weight_of(distance), 0.0)
        lasts = tl.where(near, tl.maximum(lasts, distance), lasts)
        followings = tl.where(near, followings, tl.minimum(followings, distance))
    return tl.sum(counts, axis=0), tl.sum(weights, axis=0), tl.max(lasts, axis=0), tl.min(followings, axis=0)


@triton.jit
def reach_bound(distances, length, farthest, bound, by_count, enough, BLOCK: tl.constexpr):  # noqa: N803
    """The least distance up to which the number (when `by_count`) or weight of tokens reaches a bound.

    Also the number and weight of the tokens before that distance, and the number up to it. Stops early, at a distance
    that may be too far, when no more than `enough` tokens are up to it.
    """
    low = farthest * 0.0
    high = farthest
    count_before = length * 0
    weight_before = tl.cast(length * 0, tl.float64)
    count_to = length
    while (low < high) & (count_to > enough):
        middle = low + (high - low) * 0.5
        middle = tl.where(middle >= high, low, middle)
        count, weight, last, following = measure(distances, length, middle, BLOCK)
        reached = tl.where(by_count, count.to(tl.float64), weight) >= bound
        high = tl.where(reached, last, high)
        count_to = tl.where(reached, count, count_to)
        low = tl.where(reached, low, following)
        count_before = tl.where(reached, count_before, count)
        weight_before = tl.where(reached, weight_before, weight)
    return high, count_before, weight_before, count_to


@triton.jit
def gather(distances, length, reach, near_distances, near_ids, BLOCK: tl.constexpr):  # noqa: N803
    """Copy the tokens up to a distance together, in the order of their ids."""
    found = length * 0
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        distance = tl.load(distances + at, mask=at < length, other=float("inf"))
        near = distance <= reach
        to = found + tl.cumsum(near.to(tl.int32), axis=0) - 1
        tl.store(near_distances + to, distance, mask=near)
        tl.store(near_ids + to, at, mask=near)
        found += tl.sum(near.to(tl.int32), axis=0)
    tl.debug_barrier()  # other threads read what these wrote
    return found


@triton.jit
def place_of_tie(distances, length, distance, number, BLOCK: tl.constexpr):  # noqa: N803
    """The place of token `number` (from 0) among those at exactly a distance; of the last, if they are fewer."""
    seen = length * 0
    place = length * 0
    for start in range(0, length, BLOCK):
        at = start + tl.arange(0, BLOCK)
        equal = (tl.load(distances + at, mask=at < length, other=float("inf")) == distance) & (at < length)
        order = seen + tl.cumsum(equal.to(tl.int32), axis=0) - 1
        place = tl.maximum(place, tl.max(tl.where(equal & (order <= number), at, 0), axis=0))
        seen += tl.sum(equal.to(tl.int32), axis=0)
    return place


@triton.jit
def draw_in_id_order(distances, length, farthest, draw, BLOCK: tl.constexpr):  # noqa: N803
    """Where `draw` of the row's weight falls when tokens are cumulated by their ids."""
    total = measure(distances, length, farthest, BLOCK)[1]
    target = draw * total
    before = tl.cast(length * 0, tl.float64)
    block = length * 0
    block_weight = tl.sum(_weights_at(distances, block, length, farthest, BLOCK), axis=0)
    while (before + block_weight <= target) & (block + BLOCK < length):
        before += block_weight
        block += BLOCK
        block_weight = tl.sum(_weights_at(distances, block, length, farthest, BLOCK), axis=0)
    weights = _weights_at(distances, block, length, farthest, BLOCK)
    at = block + tl.arange(0, BLOCK)
    drawable = weights > 0.0
    beyond = tl.min(tl.where((before + tl.cumsum(weights, axis=0) > target) & drawable, at, length), axis=0)
    last = tl.max(tl.where(drawable, at, 0), axis=0)
    return tl.where(beyond < length, beyond, last)  # rounding may leave nothing beyond


@triton.jit
def _weights_at(distances, start, length, farthest, BLOCK: tl.constexpr):  # noqa: N803
    at = start + tl.arange(0, BLOCK)
    distance = tl.load(distances + at, mask=at < length, other=float("inf"))
    return tl.where(distance <= farthest, weight_of(distance), 0.0)


@triton.jit
def draw_nearest_first(
    distances,
    length,
    farthest,
    draw,
    top_k,
    top_p,
    near_distances,
    near_ids,
    BLOCK: tl.constexpr,  # noqa: N803
    NEAR: tl.constexpr,  # noqa: N803
):
    """Where `draw` falls among the tokens that top_k and then top_p leave, the most likely first."""
    everything = measure(distances, length, farthest, BLOCK)
    known, total = everything[0], everything[1]
    by_count = top_k > 0
    wanted = tl.where(by_count, tl.minimum(top_k, known), known)
    bound = tl.where(by_count, wanted.to(tl.float64), top_p * total)
    coarse = reach_bound(distances, length, farthest, bound, by_count, NEAR, BLOCK)
    reach, few = coarse[0], coarse[3]
    near = distances
    count = length
    if few <= NEAR:
        count = gather(distances, length, reach, near_distances, near_ids, BLOCK)
        near = near_distances
    if by_count:
        kth = reach_bound(near, count, reach, wanted.to(tl.float64), True, 0, BLOCK)
        total = kth[2] + (wanted - kth[1]) * weight_of(kth[0])
    if top_p < 1.0:
        edge = reach_bound(near, count, reach, top_p * total, False, 0, BLOCK)
        ties = tl.ceil((top_p * total - edge[2]) / weight_of(edge[0]))
        total = tl.minimum(total, edge[2] + tl.maximum(ties, 1.0) * weight_of(edge[0]))
    target = draw * total
    found = reach_bound(near, count, reach, target, False, 0, BLOCK)
    tie = tl.floor((target - found[2]) / weight_of(found[0])).to(tl.int32)
    place = place_of_tie(near, count, found[0], tl.maximum(tie, 0), BLOCK)
    if few <= NEAR:
        place = tl.load(near_ids + place)
    return place
