"""Attention of many rows over a paged cache on Hopper, in Gluon (Shah et al., 2024).

A program takes 128 rows of one request and one key-value head with all query heads that share it. One warp asks for
pages through the copy engine; two groups of four warps take 64 rows each. In a group, the product of one tile's weights
and values runs beside the softmax of the next tile's scores, and the groups take turns at the matrix units. Tiles go
from the last to the first, so that the ones that meet the causal edge come before the long loop.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.paged import Paged, Scoring

BOX_KEYS = gl.constexpr(16)  # of one copy; pages hold a multiple of it
BOX_WIDTH = gl.constexpr(64)  # 128 bytes, the widest that the copy engine swizzles
GROUP_ROWS = gl.constexpr(64)
BOXES = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
BLOCK_ROWS = 128


@gluon.jit
def _place(query_start, context_len, requests, program, QUERIES: gl.constexpr):  # noqa: N803
    """The request of a program, its first row, the request's end, its tokens before row 0, and where its keys stop.

    Request b owns programs query_start[b] // QUERIES + b onwards. A program without work has no keys; single rows are
    the decode kernel's.
    """
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    count = requests * 0
    for start in range(0, requests, 128):
        request = start + gl.arange(0, 128, layout)
        begin = gl.load(query_start + request, mask=request < requests, other=0)
        count += gl.sum(((request < requests) & (begin // QUERIES + request <= program)).to(gl.int32), axis=0)
    request = count - 1
    begin = gl.load(query_start + request)
    end = gl.load(query_start + request + 1)
    first = begin + (program - begin // QUERIES - request) * QUERIES
    past = gl.load(context_len + request) - end
    stop = past + gl.minimum(end, first + QUERIES)
    if (first >= end) | (end - begin == 1):
        stop = stop * 0
    return request, first, end, past, stop


@gluon.jit
def _copy_tile(
    pages,
    boxes,
    full,
    table,
    kv_head,
    tile,
    stop,
    stage,
    kv_heads: gl.constexpr,
    PAGE: gl.constexpr,  # noqa: N803
    BLOCK_KEYS: gl.constexpr,  # noqa: N803
    WIDTH: gl.constexpr,  # noqa: N803
):
    """Ask for a tile. Boxes past the context get the tile's first keys: nobody looks at them, but they are no NaN."""
    COUNT: gl.constexpr = BLOCK_KEYS // BOX_KEYS  # noqa: N806
    begin = tile * BLOCK_KEYS
    mbarrier.expect(full, BLOCK_KEYS * WIDTH * 2)
    for box in gl.static_range(COUNT):
        key = begin + box * BOX_KEYS
        key = gl.where(key < stop, key, begin)
        row = (gl.load(table + key // PAGE) * kv_heads + kv_head) * PAGE + key % PAGE
        for part in gl.static_range(WIDTH // BOX_WIDTH):
            target = boxes.index((stage * (WIDTH // BOX_WIDTH) + part) * COUNT + box)
            tma.async_copy_global_to_shared(pages, [row, part * BOX_WIDTH], full, target)


@gluon.jit
def _copy_tiles(
    key_pages,
    value_pages,
    table,
    kv_head,
    stop,
    key_boxes,
    value_boxes,
    barriers,
    kv_heads: gl.constexpr,
    PAGE: gl.constexpr,  # noqa: N803
    BLOCK_KEYS: gl.constexpr,  # noqa: N803
    WIDTH: gl.constexpr,  # noqa: N803
    STAGES: gl.constexpr,  # noqa: N803
):
    """The copying warp: tiles from the last to the first, into stages that both groups have left."""
    keys_full, keys_empty, values_full, values_empty = barriers
    tiles = (stop + BLOCK_KEYS - 1) // BLOCK_KEYS
    for turn in range(tiles):
        tile = tiles - 1 - turn
        stage, free = turn % STAGES, (turn // STAGES) % 2 ^ 1
        mbarrier.wait(keys_empty.index(stage), free)
        full = keys_full.index(stage)
        _copy_tile(key_pages, key_boxes, full, table, kv_head, tile, stop, stage, kv_heads, PAGE, BLOCK_KEYS, WIDTH)
        mbarrier.wait(values_empty.index(stage), free)
        full = values_full.index(stage)
        _copy_tile(value_pages, value_boxes, full, table, kv_head, tile, stop, stage, kv_heads, PAGE, BLOCK_KEYS, WIDTH)


@gluon.jit
def _clear_unwritten(value_boxes, stop, BLOCK_KEYS: gl.constexpr, WIDTH: gl.constexpr):  # noqa: N803
    """Zero the rows of the last tile, in stage 0, that hold no values: a weight of zero does not outweigh NaN.

    Those of the box where the keys stop; if it is the tile's first, the boxes after it are copies of it.
    """
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    COUNT: gl.constexpr = BLOCK_KEYS // BOX_KEYS  # noqa: N806
    known = stop % BLOCK_KEYS
    if known % BOX_KEYS != 0:
        begin = known // BOX_KEYS
        row = gl.expand_dims(gl.arange(0, BOX_KEYS, gl.SliceLayout(1, layout)), 1)
        for one in range(begin, gl.where(begin == 0, COUNT, begin + 1)):
            for part in gl.static_range(WIDTH // BOX_WIDTH):
                box = value_boxes.index(part * COUNT + one)
                values = box.load(layout)
                box.store(gl.where(one * BOX_KEYS + row < known, values, gl.zeros_like(values)))
        fence_async_shared()


@gluon.jit
def _weights(scores, factor, largest, total, tile, position, masked: gl.constexpr, BLOCK_KEYS: gl.constexpr):  # noqa: N803
    """The weights of a tile's scores against the largest so far; that, their sums, and what earlier ones shrink by."""
    if masked:
        layout: gl.constexpr = gl.SliceLayout(0, scores.type.layout)
        key = tile * BLOCK_KEYS + gl.arange(0, BLOCK_KEYS, layout)
        visible = gl.expand_dims(key, 0) <= gl.expand_dims(position, 1)
        scores = gl.where(visible, scores, float("-inf"))
    top = gl.maximum(largest, gl.max(scores, axis=1) * factor)
    keep = gl.exp2(largest - top)
    weights = gl.exp2(scores * factor - gl.expand_dims(top, 1))
    return weights, top, total * keep + gl.sum(weights, axis=1), keep


@gluon.jit
def _next_tile(
    queries,
    keys,
    values,
    barriers,
    turns,
    turn,
    weights,
    sums,
    largest,
    total,
    factor,
    tile,
    position,
    mine: gl.constexpr,
    masked: gl.constexpr,
    layout: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,  # noqa: N803
    STAGES: gl.constexpr,  # noqa: N803
):
    """Scores of a tile, and the product of the weights before it with their values while their softmax runs."""
    keys_full, keys_empty, values_full, values_empty = barriers
    stage, phase = turn % STAGES, (turn // STAGES) % 2
    before = (turn - 1) % STAGES
    mbarrier.wait(keys_full.index(stage), phase)
    mbarrier.wait(turns.index(mine), (turn & 1) ^ mine)  # the first group's first turn comes by itself
    scores = gl.zeros([GROUP_ROWS, BLOCK_KEYS], gl.float32, layout)
    scores = warpgroup_mma(queries, keys.index(stage).permute([1, 0]), scores, use_acc=False, is_async=True)
    sums = warpgroup_mma(weights, values.index(before), sums, is_async=True)
    mbarrier.arrive(turns.index(1 - mine))
    scores = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(keys_empty.index(stage))
    fresh, largest, total, keep = _weights(scores, factor, largest, total, tile, position, masked, BLOCK_KEYS)
    # waiting here for what the next tile needs keeps the compiler from moving the softmax behind the wait below
    mbarrier.wait(values_full.index(stage), phase)
    sums, weights = warpgroup_mma_wait(0, deps=[sums, weights])
    mbarrier.arrive(values_empty.index(before))
    sums = sums * gl.expand_dims(gl.convert_layout(keep, gl.SliceLayout(1, sums.type.layout)), 1)
    weights = gl.convert_layout(fresh.to(queries.dtype), weights.type.layout)
    return weights, sums, largest, total


@gluon.jit
def _attend(
    q,
    out,
    q_stride,
    kv_head,
    first,
    end,
    past,
    stop,
    scale,
    queries,
    keys,
    values,
    value_boxes,
    barriers,
    turns,
    mine: gl.constexpr,
    heads: gl.constexpr,
    kv_heads: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,  # noqa: N803
    WIDTH: gl.constexpr,  # noqa: N803
    STAGES: gl.constexpr,  # noqa: N803
):
    """A group of warps: its 64 rows from their queries to their results."""
    keys_full, keys_empty, values_full, _ = barriers
    group: gl.constexpr = heads // kv_heads
    dense: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_KEYS, 16])
    sums_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, WIDTH, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, sums_layout, 2)

    lane = mine * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, dense))
    row = first + lane // group
    head = kv_head * group + lane % group
    real = gl.expand_dims(row < end, 1)
    column = gl.expand_dims(gl.arange(0, WIDTH, gl.SliceLayout(0, dense)), 0)
    at = gl.expand_dims(row.to(gl.int64) * q_stride + head * WIDTH, 1) + column
    queries.store(gl.load(q + at, mask=real, other=0.0))
    fence_async_shared()

    factor = scale * 1.4426950408889634
    position = past + first + (mine * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, layout))) // group
    largest = gl.full([GROUP_ROWS], -1e30, gl.float32, gl.SliceLayout(1, layout))  # a row may see nothing of a tile
    total = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, layout))
    last = (stop + BLOCK_KEYS - 1) // BLOCK_KEYS - 1
    mbarrier.wait(keys_full.index(0), 0)
    scores = gl.zeros([GROUP_ROWS, BLOCK_KEYS], gl.float32, layout)
    scores = warpgroup_mma(queries, keys.index(0).permute([1, 0]), scores, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(keys_empty.index(0))
    fresh, largest, total, _ = _weights(scores, factor, largest, total, last, position, True, BLOCK_KEYS)
    weights = gl.convert_layout(fresh.to(queries.dtype), operand)
    sums = gl.zeros([GROUP_ROWS, WIDTH], gl.float32, sums_layout)
    mbarrier.wait(values_full.index(0), 0)
    _clear_unwritten(value_boxes, stop, BLOCK_KEYS, WIDTH)

    whole = gl.minimum((past + first + 1) // BLOCK_KEYS, last)  # tiles that every row sees
    turn = 1
    for tile in range(last - 1, whole - 1, -1):
        weights, sums, largest, total = _next_tile(
            queries, keys, values, barriers, turns, turn,
            weights, sums, largest, total, factor, tile, position, mine, True, layout, BLOCK_KEYS, STAGES,
        )  # fmt: skip
        turn += 1
    for tile in range(whole - 1, -1, -1):
        weights, sums, largest, total = _next_tile(
            queries, keys, values, barriers, turns, turn,
            weights, sums, largest, total, factor, tile, position, mine, False, layout, BLOCK_KEYS, STAGES,
        )  # fmt: skip
        turn += 1
    sums = warpgroup_mma(weights, values.index((turn - 1) % STAGES), sums, is_async=True)
    sums, weights = warpgroup_mma_wait(0, deps=[sums, weights])
    sums = sums / gl.expand_dims(gl.convert_layout(total, gl.SliceLayout(1, sums_layout)), 1)
    queries.store(sums.to(queries.dtype))  # nobody needs the queries any more
    to = gl.expand_dims((row.to(gl.int64) * heads + head) * WIDTH, 1) + column
    gl.store(out + to, queries.load(dense), mask=real)


@gluon.jit(do_not_specialize=["requests"])  # it differs from step to step
def _hopper_prefill_kernel(
    q,
    key_pages,
    value_pages,
    query_start,
    context_len,
    page_table,
    out,
    q_stride,
    table_stride,
    requests,
    scale,
    heads: gl.constexpr,
    kv_heads: gl.constexpr,
    overlapped: gl.constexpr,
    PAGE: gl.constexpr,  # noqa: N803
    BLOCK_ROWS: gl.constexpr,  # noqa: N803
    BLOCK_KEYS: gl.constexpr,  # noqa: N803
    WIDTH: gl.constexpr,  # noqa: N803
    STAGES: gl.constexpr,  # noqa: N803
) -> None:
    dtype: gl.constexpr = key_pages.dtype
    layout: gl.constexpr = key_pages.layout
    single: gl.constexpr = mbarrier.MBarrierLayout()
    COUNT: gl.constexpr = STAGES * BLOCK_KEYS * WIDTH // (BOX_KEYS * BOX_WIDTH)  # noqa: N806
    queries = gl.allocate_shared_memory(dtype, [2, GROUP_ROWS, WIDTH], layout)
    keys = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_KEYS, WIDTH], layout)
    values = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_KEYS, WIDTH], layout)
    key_boxes = keys._reinterpret(dtype, [COUNT, BOX_KEYS, BOX_WIDTH], layout)
    value_boxes = values._reinterpret(dtype, [COUNT, BOX_KEYS, BOX_WIDTH], layout)
    keys_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], single)
    keys_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], single)
    values_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], single)
    values_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], single)
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], single)
    for stage in gl.static_range(STAGES):
        mbarrier.init(keys_full.index(stage), count=1)
        mbarrier.init(keys_empty.index(stage), count=2)
        mbarrier.init(values_full.index(stage), count=1)
        mbarrier.init(values_empty.index(stage), count=2)
    for one in gl.static_range(2):
        mbarrier.init(turns.index(one), count=1)
    fence_async_shared()

    await_inputs(overlapped)
    kv_head = gl.program_id(0)
    program = gl.num_programs(1) - 1 - gl.program_id(1)  # those with the longest contexts start first
    QUERIES: gl.constexpr = BLOCK_ROWS // (heads // kv_heads)  # noqa: N806
    request, first, end, past, stop = _place(query_start, context_len, requests, program, QUERIES)
    if stop > 0:
        table = page_table + request.to(gl.int64) * table_stride
        barriers = (keys_full, keys_empty, values_full, values_empty)
        gl.warp_specialize(
            [
                (
                    _attend,
                    (q, out, q_stride, kv_head, first, end, past, stop, scale, queries.index(0), keys, values,
                     value_boxes, barriers, turns, 0, heads, kv_heads, BLOCK_KEYS, WIDTH, STAGES),
                ),
                (
                    _attend,
                    (q, out, q_stride, kv_head, first, end, past, stop, scale, queries.index(1), keys, values,
                     value_boxes, barriers, turns, 1, heads, kv_heads, BLOCK_KEYS, WIDTH, STAGES),
                ),
                (
                    _copy_tiles,
                    (key_pages, value_pages, table, kv_head, stop, key_boxes, value_boxes, barriers,
                     kv_heads, PAGE, BLOCK_KEYS, WIDTH, STAGES),
                ),
            ],
            [4, 1],
            [240, 24],
        )  # fmt: skip


def suits(q: Tensor, paged: Paged, scoring: Scoring) -> bool:
    """Whether `hopper_prefill` can serve a step: 16-bit heads of 64 or 128, with scores that are left as they are."""
    keys, values = paged.key_pages, paged.value_pages
    bent = (scoring.window, scoring.softcap, scoring.sinks, scoring.alibi_slopes, paged.key_scale, paged.value_scale)
    return (
        all(option is None for option in bent)
        and q.dtype in (torch.bfloat16, torch.float16)
        and keys.dtype == values.dtype == q.dtype
        and keys.shape[3] == values.shape[3]
        and keys.shape[3] in (64, 128)
        and keys.shape[2] % BOX_KEYS.value == 0
        and BLOCK_ROWS % (q.shape[1] // keys.shape[1]) == 0
    )


def hopper_prefill(q: Tensor, paged: Paged, scoring: Scoring, out: Tensor) -> None:
    """`prefill` of a step that it `suits`, on Hopper."""
    rows, heads, width = q.shape
    _, kv_heads, page_size, _ = paged.key_pages.shape
    requests = paged.context_len.shape[0]
    queries = BLOCK_ROWS // (heads // kv_heads)
    key_pages, value_pages = (_described(pages) for pages in (paged.key_pages, paged.value_pages))
    _hopper_prefill_kernel[(kv_heads, rows // queries + requests)](
        q,
        key_pages,
        value_pages,
        paged.query_start,
        paged.context_len,
        paged.page_table,
        out,
        q.stride(0),
        paged.page_table.stride(0),
        requests,
        scoring.scale,
        heads,
        kv_heads,
        PAGE=page_size,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_KEYS=128,
        WIDTH=width,
        STAGES=3,
        num_warps=4,
        **overlap(q.device),
    )


def _described(pages: Tensor) -> TensorDescriptor:
    """Pages as rows, for the copy engine."""
    rows = pages.view(-1, pages.shape[3])
    return TensorDescriptor(rows, list(rows.shape), list(rows.stride()), [BOX_KEYS.value, BOX_WIDTH.value], BOXES)
