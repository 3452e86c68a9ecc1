"""Matmuls of few rows whose weights go from shared memory straight to the matrix units, in Gluon for Hopper.

A program asks for all it needs of the weight before its inputs are there. The copy engine puts units, 16 words of each
row, where a lane finds its part of the left operand in one piece and without conflicts: no layout is ever changed. Few
instructions are left for each weight, and the small matrix instructions are waited for by nobody, so that several
programs of few warps run side by side on a multiprocessor. The warps of a program share out the columns, and their sums
are added up at the end.

Integers of four bits stay 128 (or 1024) too large, as they are cheapest made; the sums of x take that away once for a
unit.
"""

# ruff: noqa: N803, N806 (what is known when a kernel is compiled is upper case)

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from autodeploy.kernels.triton.direct_operands import (
    WORDS,
    columns_of,
    decoded,
    finish_rows,
    places,
    powers,
    weight_row,
    x_words,
)
from autodeploy.kernels.triton.launch import await_inputs, let_next_start

UNITS = gl.NVMMASharedLayout(64, 32, rank=4)
"""How the copy engine leaves units `[units, halves, rows, 16]` in shared memory."""


@gluon.constexpr_function
def _units_layout(warps, halves, rows):
    """Units `[warps, halves, rows / halves, 16]` as matrix units take rows of the left operand."""
    part = rows // halves

    def of_row(at: int) -> list[int]:
        return [0, 0, at, 0] if at < part else [0, 1, 0, 0]

    own = [[0, 0, 0, 1], [0, 0, 0, 2], *(of_row(at) for at in powers(rows, 8))]
    lanes = [[0, 0, 0, 4], [0, 0, 0, 8], *(of_row(at) for at in (1, 2, 4))]
    return gl.DistributedLinearLayout(
        own, lanes, [[at, 0, 0, 0] for at in powers(warps)], [], [warps, halves, part, WORDS.value]
    )


@gluon.constexpr_function
def _tokens_layout(warps, tokens, words):
    """`[warps, tokens, words]` of x as matrix units take columns of the right operand."""
    own = [[0, 0, at] for at in powers(words // 4)] + [[0, at, 0] for at in powers(tokens, 8)]
    lanes = [[0, 0, words // 4], [0, 0, words // 2], [0, 1, 0], [0, 2, 0], [0, 4, 0]]
    return gl.DistributedLinearLayout(own, lanes, [[at, 0, 0] for at in powers(warps)], [], [warps, tokens, words])


@gluon.jit
def _left(words, place: gl.constexpr, format: gl.constexpr, dtype: gl.constexpr, layout: gl.constexpr):
    """The left operand `[warps, rows, 32]` of the numbers at a place of units."""
    W: gl.constexpr = words.shape[0]
    R: gl.constexpr = words.shape[1]
    pairs = decoded(words, place, format, dtype == gl.float16)
    by_lane = pairs.reshape([W, R, 4, 4, 2]).permute([0, 1, 3, 2, 4]).reshape([W, R, 32])
    return gl.convert_layout(by_lane.to(dtype, bitcast=True), layout, assert_trivial=True)


@gluon.jit
def _right(words, place: gl.constexpr, format: gl.constexpr, dtype: gl.constexpr, layout: gl.constexpr):
    """The right operand `[warps, 32, tokens]` of the columns of x that meet the numbers at a place."""
    W: gl.constexpr = words.shape[0]
    T: gl.constexpr = words.shape[1]
    by_lane = columns_of(words, place, format).reshape([W, T, 4, 4, 2]).permute([0, 3, 2, 4, 1]).reshape([W, 32, T])
    return gl.convert_layout(by_lane.to(dtype, bitcast=True), layout, assert_trivial=True)


@gluon.jit
def _add_units(
    y, words, columns, scales, zeros,
    scaled: gl.constexpr, shifted: gl.constexpr, format: gl.constexpr, dtype: gl.constexpr,
):  # fmt: skip
    """The sums y `[warps, rows, tokens]` after a unit of each warp, with scales and zero points of its own or not."""
    left: gl.constexpr = gl.DotOperandLayout(0, y.type.layout, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, y.type.layout, 2)
    products = gl.zeros_like(y)
    total = gl.zeros_like(y)
    if not scaled and format != "int4":
        products = y
    for place in gl.static_range(places(format)):
        tokens = _right(columns, place, format, dtype, right)
        products = mma_v2(_left(words, place, format, dtype, left), tokens, products)
        if format == "int4":
            total = mma_v2(gl.full([y.shape[0], y.shape[1], 32], 1.0, dtype, left), tokens, total)
    if format == "int4":
        base: gl.constexpr = 1024.0 if dtype == gl.float16 else 128.0
        if shifted:
            products -= total * (base + zeros.to(gl.float32))
        else:
            products -= total * (base + 8.0)
    if scaled:
        products = y + products * scales.to(gl.float32)
    elif format == "int4":
        products += y
    return products


@gluon.jit
def _read_columns(tokens_at, unit, units, even: gl.constexpr, WORDS: gl.constexpr):
    """A unit's columns of x, zeros where there is no such unit; of the last one where that cannot matter."""
    if even:
        words = gl.load(tokens_at + gl.minimum(unit, units - 1) * WORDS)
    else:
        words = gl.load(tokens_at + unit * WORDS, mask=unit < units, other=0)
    return words


@gluon.jit
def _read_entries(rows_at, unit, units, exist: gl.constexpr, GROUP: gl.constexpr):
    """What belongs to the group of a unit of each row; anything unless it does `exist`."""
    if exist:  # noqa: SIM108  decided when the kernel is compiled
        found = gl.load(rows_at + gl.minimum(unit, units - 1) // GROUP)
    else:
        found = unit
    return found


@gluon.jit
def _along(size: gl.constexpr, layout: gl.constexpr, axis: gl.constexpr):
    """0 to size along an axis of three."""
    if axis == 0:
        found = gl.arange(0, size, gl.SliceLayout(1, gl.SliceLayout(2, layout)))[:, None, None]
    elif axis == 1:
        found = gl.arange(0, size, gl.SliceLayout(0, gl.SliceLayout(2, layout)))[None, :, None]
    else:
        found = gl.arange(0, size, gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]
    return found


@gluon.jit
def _ask_for_units(weight, blocks, barriers, first_row, begin, TURNS: gl.constexpr):
    """Ask for all units of a program: a turn has one for each warp, and a barrier."""
    for turn in gl.static_range(TURNS):
        mbarrier.init(barriers.index(turn), count=1)
    fence_async_shared()
    gl.thread_barrier()
    WARPS: gl.constexpr = blocks.shape[1]
    for turn in gl.static_range(TURNS):
        barrier = barriers.index(turn)
        mbarrier.expect(barrier, 4 * WARPS * blocks.shape[2] * blocks.shape[3] * blocks.shape[4])
        tma.async_copy_global_to_shared(weight, [begin + turn * WARPS, 0, first_row, 0], barrier, blocks.index(turn))


@gluon.jit(do_not_specialize=["m"])
def direct_kernel(
    x,
    x_scale,
    weight,
    scale,
    zero,
    bias,
    out,
    shares,
    counters,
    m,
    n,
    x_stride,
    groups,
    units,
    x_groups,
    format: gl.constexpr,
    dtype: gl.constexpr,
    gate: gl.constexpr,
    shared: gl.constexpr,
    even: gl.constexpr,
    overlapped: gl.constexpr,
    GROUP: gl.constexpr,
    SCALE_ROWS: gl.constexpr,
    ROWS: gl.constexpr,
    TOKENS: gl.constexpr,
    TURNS: gl.constexpr,
    UNROLL: gl.constexpr,
) -> None:
    """Up to TOKENS rows x, as words of 32 bits, by the descriptor of a weight's `[units, halves, n, 16]` words.

    Program (i, s) multiplies the s-th share, of TURNS units a warp, of the columns of ROWS rows; with a gate, half of
    them are its. GROUP units of a row share a scale and a zero point; it is 0 where whole rows do.
    """
    let_next_start(overlapped)
    WARPS: gl.constexpr = gl.num_warps()
    HALVES: gl.constexpr = 1 if gate is None else 2
    X_WORDS: gl.constexpr = x_words(format)
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    units_layout: gl.constexpr = _units_layout(WARPS, HALVES, ROWS)
    tokens_layout: gl.constexpr = _tokens_layout(WARPS, TOKENS, X_WORDS)
    scaled: gl.constexpr = GROUP > 0
    shifted: gl.constexpr = zero is not None
    begin = gl.program_id(1) * (TURNS * WARPS)
    blocks = gl.allocate_shared_memory(gl.int32, [TURNS, WARPS, HALVES, ROWS // HALVES, WORDS], weight.layout)
    barriers = gl.allocate_shared_memory(gl.int64, [TURNS, 1], mbarrier.MBarrierLayout())
    _ask_for_units(weight, blocks, barriers, gl.program_id(0) * (ROWS // HALVES), begin, TURNS)

    row = weight_row(_along(ROWS, mma, 1), n, gate is not None, ROWS, ROWS // 2).to(gl.int64)
    scales_at = scale + row * groups if scaled else row
    zeros_at = zero + row * groups if shifted else row
    unit = begin + _along(WARPS, mma, 0)
    token = gl.minimum(_along(TOKENS, tokens_layout, 1), m - 1)
    tokens_at = x + (token * x_stride + _along(X_WORDS, tokens_layout, 2))
    x_unit = begin + _along(WARPS, tokens_layout, 0)
    scales = _read_entries(scales_at, unit, units, scaled, GROUP)
    zeros = _read_entries(zeros_at, unit, units, shifted, GROUP)
    await_inputs(overlapped)
    columns = _read_columns(tokens_at, x_unit, units, even, X_WORDS)
    y = gl.zeros([WARPS, ROWS, TOKENS], gl.float32, mma)
    for start in range(0, TURNS, UNROLL):
        for step in gl.static_range(UNROLL):
            unit += WARPS
            x_unit += WARPS
            later = _read_columns(tokens_at, x_unit, units, even, X_WORDS)
            next_scales = _read_entries(scales_at, unit, units, scaled, GROUP)
            next_zeros = _read_entries(zeros_at, unit, units, shifted, GROUP)
            mbarrier.wait(barriers.index(start + step), 0)
            words = blocks.index(start + step).load(units_layout).reshape([WARPS, ROWS, WORDS])
            y = _add_units(y, words, columns, scales, zeros, scaled, shifted, format, dtype)
            columns, scales, zeros = later, next_scales, next_zeros
    finish_rows(
        gl.sum(y, axis=0), x_scale, scale, bias, out, shares, counters, m, n, x_groups,
        gate, shared, GROUP, SCALE_ROWS, ROWS // 2,
    )  # fmt: skip
