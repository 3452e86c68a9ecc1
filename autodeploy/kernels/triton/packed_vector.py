"""Products of one row x and a weight of 8 or 4 bits on the ordinary units: see `skinny.matvec_kernel`."""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.launch import await_inputs
from autodeploy.kernels.triton.packed_skinny import read_packed
from autodeploy.kernels.triton.scaled_skinny import row_scales
from autodeploy.kernels.triton.shares import add_shares, leave_share
from autodeploy.kernels.triton.skinny import _rows_of_program, _share_of_program, _store
from autodeploy.kernels.triton.unpack import exact_scale, unpack


@triton.jit(do_not_specialize=["split"])
def packed_matvec_kernel(
    x,
    weight,
    scale,
    bias,
    out,
    shares,
    counters,
    n,
    k,
    split,
    groups,
    format: tl.constexpr,
    gate: tl.constexpr,
    shared: tl.constexpr,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    SCALE_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """One row x by a weight of bytes with a scale a row, on the ordinary units: see `skinny.matvec_kernel`."""
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, split, BLOCK_K)
    from_rows = weight + row.to(tl.int64)[:, None] * k
    packed = read_packed(from_rows, known, first, stop, even, 1, BLOCK_K)
    scales = exact_scale(row_scales(scale, row, known, 0, groups, SCALE_ROWS, 0), format)
    await_inputs(overlapped)
    y = _row_products(packed, x, first, stop, format, even, BLOCK_N, BLOCK_K)
    for start in tl.range(first + BLOCK_K, stop, BLOCK_K, num_stages=STAGES):
        packed = read_packed(from_rows, known, start, stop, even, 1, BLOCK_K)
        y += _row_products(packed, x, start, stop, format, even, BLOCK_N, BLOCK_K)
    y = (y * scales)[:, None]
    if shared:
        at = tl.arange(0, BLOCK_N)[:, None]
        if not leave_share(shares, counters, y, at, tl.program_id(0), tl.program_id(1), split):
            return
        y = add_shares(shares, counters, at, tl.program_id(0), split)
    _store(y, bias, out, row, known, tl.arange(0, 1), 1, n, gate, BLOCK_N, 1)


@triton.jit
def _row_products(
    packed, x, start, stop, format: tl.constexpr, even: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr  # noqa: N803
):  # fmt: skip
    column = start + tl.arange(0, BLOCK_K)
    values = tl.load(x + column) if even else tl.load(x + column, mask=column < stop, other=0.0)
    return tl.sum(unpack(packed, format, tl.float32, BLOCK_N, BLOCK_K) * values.to(tl.float32)[None, :], axis=1)


@triton.jit
def _nibble(word, place: tl.constexpr):
    """A number 0 to 15 of a word, counted from its lowest bits, and `nibble_bias(place)`: a float by its bits.

    Four bits of a word that are among the fraction of a float of the right exponent add their number to it: no place
    takes a conversion, and half of them take no shift of their own.
    """
    if place == 0:
        moved = word << 16
    elif place <= 2:
        moved = word << 8
    elif place <= 4:
        moved = word
    elif place <= 6:
        moved = word >> 8
    else:
        moved = word >> 12
    if place % 2 == 1 and place < 7:  # noqa: SIM108  decided when the kernel is compiled
        bits = (moved & 0xF000) | 0x45000000
    else:
        bits = (moved & 0xF0000) | 0x43000000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _pair(x, at, inside, even: tl.constexpr, dtype: tl.constexpr):
    """Two neighbouring elements of x, of 16 bits, as float32."""
    word = tl.load(x + at) if even else tl.load(x + at, mask=inside, other=0)
    low = (word & 0xFFFF).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
    return low, (word >> 16).to(tl.int16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def _word_products(words, x, word, inside, even: tl.constexpr, dtype: tl.constexpr):
    """Sums of eight products `[rows, words]`, of nibbles less 8, and the sums of the eight elements of x `[words]`."""
    y = tl.zeros(words.shape, tl.float32)
    biased = tl.zeros(word.shape, tl.float32)
    total = tl.zeros(word.shape, tl.float32)
    for pair in tl.static_range(4):
        low, high = _pair(x, word * 4 + pair, inside, even, dtype)
        y += _nibble(words, 2 * pair) * low[None, :]
        y += _nibble(words, 2 * pair + 1) * high[None, :]
        total += low + high
        biased += 136.0 * low + (136.0 if pair == 3 else 2056.0) * high
    return y - biased[None, :], total


@triton.jit
def _group_sums(y, GROUP: tl.constexpr):  # noqa: N803
    """Sums of words `[rows, words]` by group `[rows, groups]`."""
    EACH: tl.constexpr = y.shape[1] if GROUP == 0 else GROUP // 8  # noqa: N806
    return tl.sum(tl.reshape(y, (y.shape[0], y.shape[1] // EACH, EACH)), axis=2)


@triton.jit
def _read_groups(stored, row, known, group, groups, even: tl.constexpr):
    at = stored + row.to(tl.int64)[:, None] * groups + group[None, :]
    return tl.load(at) if even else tl.load(at, mask=known[:, None] & (group < groups)[None, :], other=0.0)


@triton.jit(do_not_specialize=["split"])
def nibble_matvec_kernel(
    x,
    words,
    scale,
    zero,
    bias,
    out,
    shares,
    counters,
    n,
    k,
    split,
    word_stride,
    groups,
    dtype: tl.constexpr,
    gate: tl.constexpr,
    shared: tl.constexpr,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """One row x, as words of two elements of dtype, by int4 as words of eight; GROUP is 0 where a row has one scale."""
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, split, BLOCK_K)
    from_rows = words + row.to(tl.int64)[:, None] * word_stride
    WORDS: tl.constexpr = BLOCK_K // 8  # noqa: N806
    GROUPS: tl.constexpr = 1 if GROUP == 0 else BLOCK_K // GROUP  # noqa: N806
    word = first // 8 + tl.arange(0, WORDS)
    group = (first // GROUP if GROUP > 0 else 0) + tl.arange(0, GROUPS)
    packed = read_packed(from_rows, known, first, stop, even, 8, BLOCK_K)
    scales = _read_groups(scale, row, known, group, groups, even)
    await_inputs(overlapped)
    products, total = _word_products(packed, x, word, word * 8 < stop, even, dtype)
    sums = _group_sums(products, GROUP)
    if zero is not None:
        shift = _read_groups(zero, row, known, group, groups, even).to(tl.float32) - 8.0
        sums -= shift * _group_sums(total[None, :], GROUP)
    sums *= scales.to(tl.float32)
    for start in tl.range(first + BLOCK_K, stop, BLOCK_K, num_stages=STAGES):
        word = start // 8 + tl.arange(0, WORDS)
        group = (start // GROUP if GROUP > 0 else 0) + tl.arange(0, GROUPS)
        packed = read_packed(from_rows, known, start, stop, even, 8, BLOCK_K)
        scales = _read_groups(scale, row, known, group, groups, even)
        products, total = _word_products(packed, x, word, word * 8 < stop, even, dtype)
        more = _group_sums(products, GROUP)
        if zero is not None:
            shift = _read_groups(zero, row, known, group, groups, even).to(tl.float32) - 8.0
            more -= shift * _group_sums(total[None, :], GROUP)
        sums += more * scales.to(tl.float32)
    y = tl.sum(sums, axis=1)[:, None]
    if shared:
        at = tl.arange(0, BLOCK_N)[:, None]
        if not leave_share(shares, counters, y, at, tl.program_id(0), tl.program_id(1), split):
            return
        y = add_shares(shares, counters, at, tl.program_id(0), split)
    _store(y, bias, out, row, known, tl.arange(0, 1), 1, n, gate, BLOCK_N, 1)
