"""Matmuls with few rows of quantized activations by quantized weights.

As in `skinny`, the weight is the left operand of the matrix units and streamed once. Sums of 8-bit products are exact;
scales of whole rows are applied to them at the end, scales of groups whenever a group ends.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.launch import await_inputs
from autodeploy.kernels.triton.shares import add_shares, leave_share
from autodeploy.kernels.triton.skinny import _rows_of_program, _share_of_program, _store
from autodeploy.kernels.triton.unpack import unpack


@triton.jit
def row_scales(scale, row, known, start, groups, ROWS: tl.constexpr, GROUP: tl.constexpr):  # noqa: N803
    """The scales `[rows]` of rows of a weight at a column: ROWS rows share one (0: all), GROUP columns (0: all).

    The scale is `[rows / ROWS, groups]`.
    """
    at = row * 0 if ROWS == 0 else row // ROWS
    at = at.to(tl.int64) * groups
    if GROUP > 0:
        at += start // GROUP
    return tl.load(scale + at, mask=known, other=0.0)


@triton.jit
def _token_scales(scale, token, real, start, groups, GROUP: tl.constexpr):  # noqa: N803
    """The scales `[tokens]` of rows of x at a column; groups is 0 where one scale is for all."""
    at = token * groups
    if GROUP > 0:
        at += start // GROUP
    return tl.load(scale + at, mask=real, other=0.0)


@triton.jit(do_not_specialize=["m", "split"])
def scaled_skinny_kernel(
    x,
    x_scale,
    weight,
    weight_scale,
    bias,
    out,
    shares,
    counters,
    m,
    n,
    k,
    split,
    x_stride,
    x_groups,
    weight_groups,
    gate: tl.constexpr,
    shared: tl.constexpr,
    even: tl.constexpr,
    held: tl.constexpr,
    overlapped: tl.constexpr,
    X_GROUP: tl.constexpr,  # noqa: N803
    SCALE_ROWS: tl.constexpr,  # noqa: N803
    WEIGHT_GROUP: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`(x * x_scale) @ (weight * weight_scale).T` for up to BLOCK_M rows, shared out as in `skinny_kernel`.

    With `held`, the first tile of weights is on its way to registers before the inputs are awaited, and comes last.
    """
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, split, BLOCK_K)
    token = tl.program_id(2) * BLOCK_M + tl.arange(0, BLOCK_M)
    real = token < m
    from_rows = weight + row.to(tl.int64)[:, None] * k
    from_tokens = x + token.to(tl.int64)[:, None] * x_stride
    exact: tl.constexpr = tl.int32 if weight.dtype.element_ty == tl.int8 else tl.float32
    grouped: tl.constexpr = X_GROUP > 0 or WEIGHT_GROUP > 0
    begin = first
    if held:
        begin = first + BLOCK_K
        column = first + tl.arange(0, BLOCK_K)
        kept = _read(from_rows, column, stop, known, even)
    await_inputs(overlapped)
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32 if grouped else exact)
    for start in tl.range(begin, stop, BLOCK_K, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_K)
        weights = _read(from_rows, column, stop, known, even)
        tokens = _read_tokens(from_tokens, column, stop, real, even)
        if grouped:
            products = tl.dot(weights, tl.trans(tokens), out_dtype=exact)
            ws = row_scales(weight_scale, row, known, start, weight_groups, SCALE_ROWS, WEIGHT_GROUP)
            xs = _token_scales(x_scale, token, real, start, x_groups, X_GROUP)
            sums += products.to(tl.float32) * (ws[:, None] * xs[None, :])
        else:
            sums = tl.dot(weights, tl.trans(tokens), sums, out_dtype=exact)
    if held:
        column = first + tl.arange(0, BLOCK_K)
        tokens = _read_tokens(from_tokens, column, stop, real, even)
        if grouped:
            products = tl.dot(kept, tl.trans(tokens), out_dtype=exact)
            ws = row_scales(weight_scale, row, known, first, weight_groups, SCALE_ROWS, WEIGHT_GROUP)
            xs = _token_scales(x_scale, token, real, first, x_groups, X_GROUP)
            sums += products.to(tl.float32) * (ws[:, None] * xs[None, :])
        else:
            sums = tl.dot(kept, tl.trans(tokens), sums, out_dtype=exact)
    y = sums.to(tl.float32)
    if not grouped:
        ws = row_scales(weight_scale, row, known, 0, weight_groups, SCALE_ROWS, 0)
        xs = _token_scales(x_scale, token, real, 0, x_groups, 0)
        y *= ws[:, None] * xs[None, :]
    if shared:
        at = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
        if not leave_share(shares, counters, y, at, tile, tl.program_id(1), split):
            return
        y = add_shares(shares, counters, at, tile, split)
    _store(y, bias, out, row, known, token, m, n, gate, BLOCK_N, BLOCK_M)


@triton.jit
def _read(from_rows, column, stop, known, even: tl.constexpr):
    if even:
        weights = tl.load(from_rows + column[None, :], eviction_policy="evict_first")
    else:
        weights = tl.load(from_rows + column[None, :], mask=known[:, None] & (column < stop)[None, :], other=0.0)
    return weights


@triton.jit
def _read_tokens(from_tokens, column, stop, real, even: tl.constexpr):
    if even:
        tokens = tl.load(from_tokens + column[None, :], mask=real[:, None], other=0.0)
    else:
        tokens = tl.load(from_tokens + column[None, :], mask=real[:, None] & (column < stop)[None, :], other=0.0)
    return tokens


@triton.jit(do_not_specialize=["split"])
def scaled_matvec_kernel(
    x,
    x_scale,
    weight,
    weight_scale,
    bias,
    out,
    shares,
    counters,
    n,
    k,
    split,
    x_groups,
    weight_groups,
    gate: tl.constexpr,
    shared: tl.constexpr,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    SCALE_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """One row x, with scales of whole rows, on the ordinary units: see `skinny.matvec_kernel`."""
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, split, BLOCK_K)
    from_rows = weight + row.to(tl.int64)[:, None] * k
    column = first + tl.arange(0, BLOCK_K)
    weights = _read(from_rows, column, stop, known, even)
    ws = row_scales(weight_scale, row, known, 0, weight_groups, SCALE_ROWS, 0)
    await_inputs(overlapped)
    y = _products(weights, x, column, stop, even)
    for start in tl.range(first + BLOCK_K, stop, BLOCK_K, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_K)
        weights = _read(from_rows, column, stop, known, even)
        y += _products(weights, x, column, stop, even)
    y *= ws * tl.load(x_scale)
    y = y[:, None]
    if shared:
        at = tl.arange(0, BLOCK_N)[:, None]
        if not leave_share(shares, counters, y, at, tl.program_id(0), tl.program_id(1), split):
            return
        y = add_shares(shares, counters, at, tl.program_id(0), split)
    _store(y, bias, out, row, known, tl.arange(0, 1), 1, n, gate, BLOCK_N, 1)


@triton.jit
def _products(weights, x, column, stop, even: tl.constexpr):
    values = tl.load(x + column) if even else tl.load(x + column, mask=column < stop, other=0.0)
    format: tl.constexpr = "int8" if weights.dtype == tl.int8 else "fp8"
    ROWS: tl.constexpr = weights.shape[0]  # noqa: N806
    COLUMNS: tl.constexpr = weights.shape[1]  # noqa: N806
    wide = unpack(weights, format, tl.float32, ROWS, COLUMNS)
    return tl.sum(wide * values.to(tl.float32)[None, :], axis=1)
