"""As `direct`, for more rows of x than a warp has registers for.

The warps of a program take rows of the weight of their own, and share x: the columns of a unit pass through shared
memory once, already split by place, in the order in which lanes take them. Numbers are scaled as they are decoded, so
that no second set of sums is needed.
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

PLANES = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])


@gluon.constexpr_function
def _weights_layout(rows, warps):
    """A unit `[rows, words]` of the weight as the left operand takes it: of each 16 rows, a warp has all."""
    high = powers(rows, 16)
    own = [[0, 1], [0, 2], [8, 0]] + [[at, 0] for at in high if at >= 16 * warps]
    lanes = [[0, 4], [0, 8], [1, 0], [2, 0], [4, 0]]
    return gl.DistributedLinearLayout(own, lanes, [[at, 0] for at in high if at < 16 * warps], [], [rows, WORDS.value])


@gluon.constexpr_function
def _tokens_layout(tokens, columns, warps, shared_out):
    """`[tokens, columns]` of x, a lane with a quarter of neighbouring columns; `shared_out` among warps or in each."""
    high = powers(tokens, 8)
    count = len(powers(warps))
    of_warps = [[at, 0] for at in high[:count]] if shared_out else []
    own = [[0, at] for at in powers(columns // 4)] + [[at, 0] for at in high[len(of_warps) :]]
    lanes = [[0, columns // 4], [0, columns // 2], [1, 0], [2, 0], [4, 0]]
    of_warps = of_warps + [[0, 0]] * (count - len(of_warps))
    return gl.DistributedLinearLayout(own, lanes, of_warps, [], [tokens, columns])


@gluon.constexpr_function
def _scaling_decoder(place, half):
    """As `direct`'s for int4; $2 is a pair of a scale, $3 one of the zero point and what decoding added."""
    magic, kind = ("0x64006400", "f16x2") if half else ("0x43004300", "bf16x2")
    return (
        f"{{\n.reg .b32 u;\nshr.u32 u, $1, {4 * place}; lop3.b32 u, u, 0x000f000f, {magic}, 0xEA;"
        f" sub.{kind} u, u, $3; mul.{kind} $0, u, $2;\n}}"
    )


@gluon.jit
def _scaled(words, scales, zeros, place: gl.constexpr, dtype: gl.constexpr):
    """The pairs `[rows, 32]` of int4 at a place of `words [rows, 16]`, less zeros `[rows]`, times scales `[rows]`."""
    asm: gl.constexpr = _scaling_decoder(place, dtype == gl.float16)
    halves = gl.join(words.to(gl.int16), (words >> 16).to(gl.int16)).reshape([words.shape[0], 32])
    layout: gl.constexpr = gl.SliceLayout(1, halves.type.layout)
    scales = gl.expand_dims(gl.convert_layout(scales, layout, assert_trivial=True), 1)
    zeros = gl.expand_dims(gl.convert_layout(zeros, layout, assert_trivial=True), 1)
    return gl.inline_asm_elementwise(asm, "=r,r,r,r", [halves, scales, zeros], gl.int16, is_pure=True, pack=2)


@gluon.jit
def _store_planes(words, planes, format: gl.constexpr):
    """Put a unit's columns of x where all warps find them, one plane `[tokens, 32]` for each place."""
    for place in gl.static_range(places(format)):
        planes[place].store(columns_of(words, place, format))


@gluon.jit
def _add_unit(
    y, words, scales, zeros, planes, scaled: gl.constexpr, format: gl.constexpr, dtype: gl.constexpr,
    tokens_layout: gl.constexpr,
):  # fmt: skip
    """The sums y `[rows, tokens]` after a unit."""
    left: gl.constexpr = gl.DotOperandLayout(0, y.type.layout, 2)
    right: gl.constexpr = gl.DotOperandLayout(1, y.type.layout, 2)
    R: gl.constexpr = y.shape[0]
    T: gl.constexpr = y.shape[1]
    for place in gl.static_range(places(format)):
        columns = planes[place].load(tokens_layout).reshape([T, 4, 4, 2]).permute([2, 1, 3, 0]).reshape([32, T])
        if scaled:
            pairs = _scaled(words, scales, zeros, place, dtype)
        else:
            pairs = decoded(words, place, format, dtype == gl.float16)
        weights = pairs.reshape([R, 4, 4, 2]).permute([0, 2, 1, 3]).reshape([R, 32]).to(dtype, bitcast=True)
        weights = gl.convert_layout(weights, left, assert_trivial=True)
        columns = gl.convert_layout(columns.to(dtype, bitcast=True), right, assert_trivial=True)
        y = mma_v2(weights, columns, y)
    return y


@gluon.jit
def _read_scales(scale, row, unit, groups, real, dtype: gl.constexpr, GROUP: gl.constexpr):
    """The scales of rows at a unit, in the dtype of the operands; one where whole rows have them, at the end."""
    if GROUP > 0:
        found = gl.load(scale + (row.to(gl.int64) * groups + unit // GROUP), mask=real, other=0.0).to(dtype)
    else:
        found = gl.full(row.shape, 1.0, dtype, row.type.layout)
    return found


@gluon.jit
def _read_zeros(zero, row, unit, groups, real, dtype: gl.constexpr, GROUP: gl.constexpr):
    """The zero points of rows at a unit, and what decoding adds to int4."""
    base: gl.constexpr = 1024.0 if dtype == gl.float16 else 128.0
    if zero is None:
        found = gl.full(row.shape, base + 8.0, dtype, row.type.layout)
    else:
        at = row.to(gl.int64) * groups + (unit // GROUP if GROUP > 0 else 0)
        found = (gl.load(zero + at, mask=real, other=8).to(gl.float32) + base).to(dtype)
    return found


@gluon.jit(do_not_specialize=["m", "share"])
def direct_tiles_kernel(
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
    share,
    x_groups,
    format: gl.constexpr,
    dtype: gl.constexpr,
    gate: gl.constexpr,
    shared: gl.constexpr,
    overlapped: gl.constexpr,
    GROUP: gl.constexpr,
    SCALE_ROWS: gl.constexpr,
    ROWS: gl.constexpr,
    TOKENS: gl.constexpr,
    STAGES: gl.constexpr,
) -> None:
    """As `direct_kernel`, with shares of `share` units; every warp takes ROWS divided by the number of warps."""
    WARPS: gl.constexpr = gl.num_warps()
    X_WORDS: gl.constexpr = x_words(format)
    PLACES: gl.constexpr = places(format)
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1], [16, 8])
    weights_layout: gl.constexpr = _weights_layout(ROWS, WARPS)
    read_layout: gl.constexpr = _tokens_layout(TOKENS, X_WORDS, WARPS, True)
    tokens_layout: gl.constexpr = _tokens_layout(TOKENS, 32, WARPS, False)
    scaled: gl.constexpr = format == "int4"

    begin = gl.program_id(1) * share
    stop = gl.minimum(begin + share, units)
    row = weight_row(gl.arange(0, ROWS, gl.SliceLayout(1, weights_layout)), n, gate is not None, ROWS, 8)
    word = gl.arange(0, WORDS, gl.SliceLayout(0, weights_layout))
    rows_at = weight + (gl.expand_dims(row.to(gl.int64) * weight_stride, 1) + gl.expand_dims(word, 0))
    token = gl.minimum(gl.arange(0, TOKENS, gl.SliceLayout(1, read_layout)), m - 1)
    x_word = gl.arange(0, X_WORDS, gl.SliceLayout(0, read_layout))
    tokens_at = x + (gl.expand_dims(token * x_stride, 1) + gl.expand_dims(x_word, 0))
    first, second = (), ()
    for _ in gl.static_range(PLACES):
        first = first + (gl.allocate_shared_memory(gl.int16, [TOKENS, 32], PLANES),)
        second = second + (gl.allocate_shared_memory(gl.int16, [TOKENS, 32], PLANES),)

    words, scales, zeros = (), (), ()
    for stage in gl.static_range(STAGES):
        unit = begin + stage
        words = words + (gl.load(rows_at + unit * WORDS, mask=unit < stop, other=0),)
        scales = scales + (_read_scales(scale, row, unit, groups, unit < stop, dtype, GROUP),)
        zeros = zeros + (_read_zeros(zero, row, unit, groups, unit < stop, dtype, GROUP),)
    await_inputs(overlapped)
    columns = gl.load(tokens_at + begin * X_WORDS, mask=begin < stop, other=0)
    _store_planes(columns, first, format)
    columns = gl.load(tokens_at + (begin + 1) * X_WORDS, mask=begin + 1 < stop, other=0)
    y = gl.zeros([ROWS, TOKENS], gl.float32, mma)
    for start in range(begin, stop, STAGES):
        later_words, later_scales, later_zeros = (), (), ()
        for stage in gl.static_range(STAGES):
            planes = first if stage % 2 == 0 else second
            _store_planes(columns, second if stage % 2 == 0 else first, format)
            after = start + stage + 2
            columns = gl.load(tokens_at + after * X_WORDS, mask=after < stop, other=0)
            y = _add_unit(y, words[stage], scales[stage], zeros[stage], planes, scaled, format, dtype, tokens_layout)
            unit = start + stage + STAGES
            later_words = later_words + (gl.load(rows_at + unit * WORDS, mask=unit < stop, other=0),)
            later_scales = later_scales + (_read_scales(scale, row, unit, groups, unit < stop, dtype, GROUP),)
            later_zeros = later_zeros + (_read_zeros(zero, row, unit, groups, unit < stop, dtype, GROUP),)
        words, scales, zeros = later_words, later_scales, later_zeros
    finish_rows(y, x_scale, scale, bias, out, shares, counters, m, n, x_groups, gate, shared, GROUP, SCALE_ROWS, 8)
