"""Matmuls with few rows by weights of 8 and 4 bits, which are decoded in registers on their way to the matrix units.

Where a group of columns that share a scale spans a turn, the scale is applied to the turn's sums; smaller groups are
scaled as they are decoded.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.launch import await_inputs
from autodeploy.kernels.triton.scaled_skinny import row_scales
from autodeploy.kernels.triton.shares import add_shares, leave_share
from autodeploy.kernels.triton.skinny import _rows_of_program, _share_of_program, _store
from autodeploy.kernels.triton.unpack import entry, exact_scale, unpack


@triton.jit
def read_packed(
    from_rows, known, start, stop, even: tl.constexpr, PER_BYTE: tl.constexpr, BLOCK_K: tl.constexpr  # noqa: N803
):  # fmt: skip
    """The bytes that hold BLOCK_K columns from `start`, in rows that are masked unless everything is `even`."""
    at = start // PER_BYTE + tl.arange(0, BLOCK_K // PER_BYTE)
    if even:
        packed = tl.load(from_rows + at[None, :], eviction_policy="evict_first")
    else:
        packed = tl.load(from_rows + at[None, :], mask=known[:, None] & (at * PER_BYTE < stop)[None, :], other=0.0)
    return packed


@triton.jit
def _by_column(
    few, row, known, start, groups, GROUP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr  # noqa: N803
):  # fmt: skip
    """What `few [rows, groups]` holds for each of BLOCK_K columns from `start`, in groups that are no longer."""
    group = start // GROUP + tl.arange(0, BLOCK_K // GROUP)
    mask = known[:, None] & (group < groups)[None, :]
    found = tl.load(few + row.to(tl.int64)[:, None] * groups + group[None, :], mask=mask, other=0.0)
    wide = tl.broadcast_to(tl.expand_dims(found, 2), (BLOCK_N, BLOCK_K // GROUP, GROUP))
    return tl.reshape(wide, (BLOCK_N, BLOCK_K))


@triton.jit
def scaled_values(
    values,
    scale,
    zero,
    row,
    known,
    start,
    groups,
    format: tl.constexpr,
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
):
    """Unpacked values `[BLOCK_N, BLOCK_K]` in their dtype, shifted and scaled by groups no longer than BLOCK_K."""
    if zero is not None:
        shift = _by_column(zero, row, known, start, groups, GROUP, BLOCK_N, BLOCK_K).to(tl.float32) - 8.0
        values -= shift.to(values.dtype)
    stored = _by_column(scale, row, known, start, groups, GROUP, BLOCK_N, BLOCK_K)
    return values * exact_scale(stored, format).to(values.dtype)


@triton.jit(do_not_specialize=["m", "split"])
def packed_skinny_kernel(
    x,
    weight,
    scale,
    zero,
    global_scale,
    bias,
    out,
    shares,
    counters,
    m,
    n,
    k,
    split,
    x_stride,
    weight_stride,
    groups,
    format: tl.constexpr,
    gate: tl.constexpr,
    shared: tl.constexpr,
    even: tl.constexpr,
    held: tl.constexpr,
    overlapped: tl.constexpr,
    SCALE: tl.constexpr,  # noqa: N803
    ZERO: tl.constexpr,  # noqa: N803
    SCALE_ROWS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`x @ w.T` for up to BLOCK_M rows, shared out as in `skinny_kernel`; GROUP is 0 where a row has one scale."""
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, split, BLOCK_K)
    token = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = token < m
    PER_BYTE: tl.constexpr = 1 if format == "int8" or format == "fp8" else 2  # noqa: N806
    from_rows = weight + row.to(tl.int64)[:, None] * weight_stride  # whose alignment is known, unlike that of k // 2
    from_tokens = x + token.to(tl.int64)[:, None] * x_stride
    begin = first
    if held:
        begin = first + BLOCK_K
        kept = read_packed(from_rows, known, first, stop, even, PER_BYTE, BLOCK_K)
    await_inputs(overlapped)
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(begin, stop, BLOCK_K, num_stages=STAGES):
        packed = read_packed(from_rows, known, start, stop, even, PER_BYTE, BLOCK_K)
        sums = _multiply(
            packed, from_tokens, scale, zero, sums, row, known, real, start, stop, groups,
            format, even, SCALE, ZERO, SCALE_ROWS, GROUP, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    if held:
        sums = _multiply(
            kept, from_tokens, scale, zero, sums, row, known, real, first, stop, groups,
            format, even, SCALE, ZERO, SCALE_ROWS, GROUP, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    if GROUP == 0:  # noqa: SIM102  decided when the kernel is compiled
        if zero is None:
            sums *= exact_scale(row_scales(scale, row, known, 0, groups, SCALE_ROWS, 0), format)[:, None]
    if global_scale is not None:
        sums *= tl.load(global_scale)
    if shared:
        at = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
        if not leave_share(shares, counters, sums, at, tile, tl.program_id(1), split):
            return
        sums = add_shares(shares, counters, at, tile, split)
    _store(sums, bias, out, row, known, token, m, n, gate, BLOCK_N, BLOCK_M)


@triton.jit
def _multiply(
    packed,
    from_tokens,
    scale,
    zero,
    sums,
    row,
    known,
    real,
    start,
    stop,
    groups,
    format: tl.constexpr,
    even: tl.constexpr,
    SCALE: tl.constexpr,  # noqa: N803
    ZERO: tl.constexpr,  # noqa: N803
    SCALE_ROWS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
):
    """The sums after one more turn."""
    column = start + tl.arange(0, BLOCK_K)
    inside = real[:, None] if even else real[:, None] & (column < stop)[None, :]
    tokens = tl.load(from_tokens + column[None, :], mask=inside, other=0.0)
    values = unpack(packed, format, tokens.dtype, BLOCK_N, BLOCK_K)
    if GROUP > 0 and GROUP < BLOCK_K:
        values = scaled_values(values, scale, zero, row, known, start, groups, format, GROUP, BLOCK_N, BLOCK_K)
        sums = tl.dot(values, tl.trans(tokens), sums, input_precision="ieee")
    elif GROUP > 0 or zero is not None:
        products = tl.dot(values, tl.trans(tokens), input_precision="ieee")
        shared_row = row * 0 if SCALE_ROWS == 0 else row // SCALE_ROWS
        group = 0 if GROUP == 0 else start // GROUP
        if zero is not None:
            shift = entry(zero, shared_row, groups, group, ZERO, known).to(tl.float32) - 8.0
            products -= shift[:, None] * tl.sum(tokens.to(tl.float32), axis=1)[None, :]
        few = entry(scale, shared_row, groups, group, SCALE, known)
        sums += products * exact_scale(few, format)[:, None]
    else:
        sums = tl.dot(values, tl.trans(tokens), sums, input_precision="ieee")
    return sums
