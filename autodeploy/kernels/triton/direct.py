"""Matmuls of few rows whose weights go from memory straight into the registers of the matrix units, in Gluon.

A warp reads 64 bytes of each of its rows of the weight, a unit: a lane reads 16 neighbouring bytes, and these are what
it holds of the left operand, decoded. No weight is ever in shared memory, and no layout is changed. Every warp asks for
several units at once, which are neighbours in their rows, and for the first ones before the inputs are awaited. The
warps of a program share out the columns, and their sums are added up at the end.

Integers of four bits stay 128 (or 1024) too large, as they are cheapest made; the sums of x take that away once for a
unit.
"""

# ruff: noqa: N803, N806, RUF005 (what is known when a kernel is compiled is upper case; Gluon unpacks no tuples)
# mypy: disable-error-code="assignment"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

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
from autodeploy.kernels.triton.launch import await_inputs


@gluon.constexpr_function
def _rows_layout(warps, rows, words):
    """`[warps, rows, words]` as matrix units take rows of an operand, a lane with neighbouring words."""
    own = [[0, 0, at] for at in powers(words // 4)] + [[0, at, 0] for at in powers(rows, 8)]
    lanes = [[0, 0, words // 4], [0, 0, words // 2], [0, 1, 0], [0, 2, 0], [0, 4, 0]]
    return gl.DistributedLinearLayout(own, lanes, [[at, 0, 0] for at in powers(warps)], [], [warps, rows, words])


@gluon.constexpr_function
def _scales_layout(warps, rows, stages):
    """`[warps, rows, stages]`, each row's in the lanes that have its sums."""
    own = [[0, 0, at] for at in powers(stages)] + [[0, at, 0] for at in powers(rows, 8)]
    lanes = [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 4, 0]]
    return gl.DistributedLinearLayout(own, lanes, [[at, 0, 0] for at in powers(warps)], [], [warps, rows, stages])


@gluon.jit
def _left(words, place: gl.constexpr, format: gl.constexpr, dtype: gl.constexpr, layout: gl.constexpr):
    """The left operand `[warps, rows, 32]` of the numbers at a place of a unit's words."""
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
def _of_stage(entries, stage: gl.constexpr, layout: gl.constexpr):
    """One stage's `[warps, rows, 1]` of `entries [warps, rows, stages]`, in float32."""
    W: gl.constexpr = entries.shape[0]
    R: gl.constexpr = entries.shape[1]
    HALF: gl.constexpr = entries.shape[2] // 2
    if HALF == 0:
        own = gl.convert_layout(entries.reshape([W, R]), gl.SliceLayout(2, layout), assert_trivial=True)
        found = gl.expand_dims(own.to(gl.float32), 2)
    else:
        early, late = gl.split(entries.reshape([W, R, 2, HALF]).permute([0, 1, 3, 2]))
        found = _of_stage(early if stage < HALF else late, stage % HALF, layout)
    return found


@gluon.jit
def _add_unit(
    y, words, tokens, scales, zeros, stage: gl.constexpr, scaled: gl.constexpr, shifted: gl.constexpr,
    format: gl.constexpr, dtype: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """The sums y `[warps, rows, tokens]` after a unit, with scales and zero points of its own or not."""
    left: gl.constexpr = gl.DotOperandLayout(0, layout, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, layout, 2)
    products = gl.zeros_like(y)
    total = gl.zeros_like(y)
    if not scaled and format != "int4":
        products = y
    for place in gl.static_range(places(format)):
        columns = _right(tokens, place, format, dtype, right)
        products = mma_v2(_left(words, place, format, dtype, left), columns, products)
        if format == "int4":
            ones = gl.full([y.shape[0], y.shape[1], 32], 1.0, dtype, left)
            total = mma_v2(ones, columns, total)
    if format == "int4":
        base: gl.constexpr = 1024.0 if dtype == gl.float16 else 128.0
        if shifted:
            products -= total * (base + _of_stage(zeros, stage, layout))
        else:
            products -= total * (base + 8.0)
    if scaled:
        products = y + products * _of_stage(scales, stage, layout)
    elif format == "int4":
        products += y
    return products


@gluon.jit
def _read(rows_at, unit, units, even: gl.constexpr, WORDS: gl.constexpr, weights: gl.constexpr):
    """A unit's words of each row: for weights those of the last unit, for x zeros, where there is none."""
    if weights:
        here = unit if even else gl.minimum(unit, units - 1)
        words = gl.load(rows_at + here * WORDS, eviction_policy="evict_first")
    elif even:
        words = gl.load(rows_at + unit * WORDS)
    else:
        words = gl.load(rows_at + unit * WORDS, mask=unit < units, other=0)
    return words


@gluon.jit
def _read_entries(
    entries, row, unit, units, groups, exist: gl.constexpr, even: gl.constexpr, GROUP: gl.constexpr
):  # fmt: skip
    """What `entries [rows, groups]` hold for several units of each row; anything unless they `exist`.

    GROUP is 0 where whole rows share an entry.
    """
    if exist:
        here = unit if even else gl.minimum(unit, units - 1)
        group = here // GROUP if GROUP > 0 else here * 0
        found = gl.load(entries + (row.to(gl.int64) * groups + group))
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
def _sums(
    x, weight, scale, zero, m, n, x_stride, weight_stride, groups, units, turns,
    format: gl.constexpr, dtype: gl.constexpr, gated: gl.constexpr, even: gl.constexpr, overlapped: gl.constexpr,
    GROUP: gl.constexpr, ROWS: gl.constexpr, TOKENS: gl.constexpr, WARPS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The sums of each warp `[WARPS, ROWS, TOKENS]`, over a program's share of the columns."""
    X_WORDS: gl.constexpr = x_words(format)
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    rows_layout: gl.constexpr = _rows_layout(WARPS, ROWS, WORDS)
    tokens_layout: gl.constexpr = _rows_layout(WARPS, TOKENS, X_WORDS)
    scales_layout: gl.constexpr = _scales_layout(WARPS, ROWS, STAGES)
    begin = gl.program_id(1) * turns * (WARPS * STAGES)

    row = weight_row(_along(ROWS, rows_layout, 1), n, gated, ROWS, 8)
    rows_at = weight + (row.to(gl.int64) * weight_stride + _along(WORDS, rows_layout, 2))
    unit = begin + _along(WARPS, rows_layout, 0) * STAGES
    stage_unit = begin + _along(WARPS, scales_layout, 0) * STAGES + _along(STAGES, scales_layout, 2)
    entry_row = weight_row(_along(ROWS, scales_layout, 1), n, gated, ROWS, 8)
    scaled: gl.constexpr = GROUP > 0
    shifted: gl.constexpr = zero is not None
    token = gl.minimum(_along(TOKENS, tokens_layout, 1), m - 1)
    tokens_at = x + (token * x_stride + _along(X_WORDS, tokens_layout, 2))
    x_unit = begin + _along(WARPS, tokens_layout, 0) * STAGES

    words = ()
    for stage in gl.static_range(STAGES):
        words = words + (_read(rows_at, unit + stage, units, even, WORDS, True),)
    scales = _read_entries(scale, entry_row, stage_unit, units, groups, scaled, even, GROUP)
    zeros = _read_entries(zero, entry_row, stage_unit, units, groups, shifted, even, GROUP)
    await_inputs(overlapped)
    columns = _read(tokens_at, x_unit, units, even, X_WORDS, False)
    y = gl.zeros([WARPS, ROWS, TOKENS], gl.float32, mma)
    for _ in range(turns - 1):
        unit += WARPS * STAGES
        stage_unit += WARPS * STAGES
        next_scales = _read_entries(scale, entry_row, stage_unit, units, groups, scaled, even, GROUP)
        next_zeros = _read_entries(zero, entry_row, stage_unit, units, groups, shifted, even, GROUP)
        later = ()
        for stage in gl.static_range(STAGES):
            ahead = stage + 1 if stage + 1 < STAGES else WARPS * STAGES
            next_x = _read(tokens_at, x_unit + ahead, units, even, X_WORDS, False)
            y = _add_unit(y, words[stage], columns, scales, zeros, stage, scaled, shifted, format, dtype, mma)
            later = later + (_read(rows_at, unit + stage, units, even, WORDS, True),)
            columns = next_x
        x_unit += WARPS * STAGES
        words, scales, zeros = later, next_scales, next_zeros
    for stage in gl.static_range(STAGES):
        next_x = columns
        if stage + 1 < STAGES:
            next_x = _read(tokens_at, x_unit + stage + 1, units, even, X_WORDS, False)
        y = _add_unit(y, words[stage], columns, scales, zeros, stage, scaled, shifted, format, dtype, mma)
        columns = next_x
    return y


@gluon.jit(do_not_specialize=["m", "turns"])
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
    weight_stride,
    groups,
    units,
    turns,
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
    STAGES: gl.constexpr,
) -> None:
    """Up to TOKENS rows x by a weight, both as words of 32 bits, that is n rows or, with a gate, 2 n.

    Program (i, s) multiplies the s-th share, of `turns` turns, of the columns of ROWS rows; every warp takes STAGES
    units a turn. GROUP units of a row share a scale and a zero point; it is 0 where whole rows do.
    """
    WARPS: gl.constexpr = gl.num_warps()
    y = _sums(
        x, weight, scale, zero, m, n, x_stride, weight_stride, groups, units, turns,
        format, dtype, gate is not None, even, overlapped, GROUP, ROWS, TOKENS, WARPS, STAGES,
    )  # fmt: skip
    finish_rows(
        gl.sum(y, axis=0), x_scale, scale, bias, out, shares, counters, m, n, x_groups,
        gate, shared, GROUP, SCALE_ROWS, 8,
    )  # fmt: skip
