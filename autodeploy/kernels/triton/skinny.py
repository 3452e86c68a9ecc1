"""Matmuls with few rows: the weight is streamed once, and everything else hides behind that.

One row is a matrix-vector product on the ordinary units. Up to 64 rows go through the matrix units with the weight as
their left operand, so that its rows, not those of the batch, fill the instruction. Where the weight has too few rows
to occupy the chip, `split_k` programs share a row, and the last of them adds up their sums (`shares`).

Where the weight stacks the projections of a gate and of what it gates, a program takes as many rows of one as of the
other, and their products leave it as one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.activation import activation
from autodeploy.kernels.triton.launch import await_inputs
from autodeploy.kernels.triton.shares import add_shares, leave_share


@triton.jit
def _rows_of_program(n, gated: tl.constexpr, BLOCK_N: tl.constexpr):  # noqa: N803
    """The rows of the weight that a program multiplies, the gate's first where there is one, and which of them exist.

    `n` is how many columns the result has.
    """
    local = tl.arange(0, BLOCK_N)
    if gated:
        column = tl.program_id(0) * (BLOCK_N // 2) + local % (BLOCK_N // 2)
        row = column + local // (BLOCK_N // 2) * n
    else:
        column = tl.program_id(0) * BLOCK_N + local
        row = column
    return row, column < n


@triton.jit
def _share_of_program(k, split, BLOCK_K: tl.constexpr):  # noqa: N803
    """The first of the weight's columns that a program multiplies, and the one behind its last."""
    share = tl.cdiv(tl.cdiv(k, split), BLOCK_K) * BLOCK_K
    first = tl.program_id(1) * share
    return first, tl.minimum(first + share, k)


@triton.jit
def _read_weights(at, known, inside, even: tl.constexpr):
    if even:
        weights = tl.load(at, eviction_policy="evict_first")
    else:
        weights = tl.load(at, mask=known[:, None] & inside[None, :], other=0.0)
    return weights


@triton.jit
def _read_values(at, inside, even: tl.constexpr):
    values = tl.load(at) if even else tl.load(at, mask=inside, other=0.0)
    return values.to(tl.float32)


@triton.jit
def read_residual(residual, row, known, token, m, n):
    """What is added to the products of rows of the weight by tokens, as it is stored `[m, n]`."""
    at = token[None, :] * n + row[:, None]
    return tl.load(residual + at, mask=known[:, None] & (token < m)[None, :], other=0.0)


@triton.jit
def _store(
    y,
    bias,
    out,
    row,
    known,
    token,
    m,
    n,
    gate: tl.constexpr,
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
) -> None:
    """Write the products y `[BLOCK_N, BLOCK_M]` of rows of the weight by tokens: shifted, gated, rounded once."""
    real = token < m
    if bias is not None:
        y += tl.load(bias + row, mask=known, other=0.0).to(tl.float32)[:, None]
    dtype = out.dtype.element_ty
    if gate is None:
        at = token[None, :] * n + row[:, None]
        tl.store(out + at, y.to(dtype), mask=known[:, None] & real[None, :])
    else:
        HALF: tl.constexpr = BLOCK_N // 2  # noqa: N806
        gates, gated = tl.split(tl.permute(tl.reshape(y, (2, HALF, BLOCK_M)), (1, 2, 0)))
        column = tl.program_id(0) * HALF + tl.arange(0, HALF)
        at = token[None, :] * n + column[:, None]
        y = activation(gates, gate, dtype) * gated
        tl.store(out + at, y.to(dtype), mask=(column < n)[:, None] & real[None, :])


@triton.jit(do_not_specialize=["split"])
def matvec_kernel(
    x,
    weight,
    bias,
    residual,
    out,
    shares,
    counters,
    n,
    k,
    split,
    gate: tl.constexpr,
    shared: tl.constexpr,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`weight @ x` for one row x; program (i, s) multiplies the s-th of `split` shares of the columns.

    No kernel writes weights: the first are on their way before the inputs are awaited, so that the memory stays busy
    while the kernels before this one finish. Each turn adds up its own sums: registers hold weights instead.
    """
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, split, BLOCK_K)
    from_rows = weight + row.to(tl.int64)[:, None] * k
    column = first + tl.arange(0, BLOCK_K)
    weights = _read_weights(from_rows + column[None, :], known, column < stop, even)
    await_inputs(overlapped)
    if residual is not None:  # on its way while the weights are read
        added = read_residual(residual, row, known, tl.arange(0, 1), 1, n)
    values = _read_values(x + column, column < stop, even)
    y = tl.sum(weights.to(tl.float32) * values[None, :], axis=1)
    for start in tl.range(first + BLOCK_K, stop, BLOCK_K, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_K)
        inside = column < stop
        weights = _read_weights(from_rows + column[None, :], known, inside, even)
        values = _read_values(x + column, inside, even)
        y += tl.sum(weights.to(tl.float32) * values[None, :], axis=1)
    y = y[:, None]
    if shared:
        at = tl.arange(0, BLOCK_N)[:, None]
        if not leave_share(shares, counters, y, at, tl.program_id(0), tl.program_id(1), split):
            return
        y = add_shares(shares, counters, at, tl.program_id(0), split)
    if residual is not None:
        y += added.to(tl.float32)
    _store(y, bias, out, row, known, tl.arange(0, 1), 1, n, gate, BLOCK_N, 1)


@triton.jit(do_not_specialize=["m", "split"])
def skinny_kernel(
    x,
    weight,
    bias,
    residual,
    out,
    shares,
    counters,
    m,
    n,
    k,
    split,
    x_stride,
    gate: tl.constexpr,
    shared: tl.constexpr,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`x @ weight.T` for up to BLOCK_M rows; program (i, s) multiplies the s-th of `split` shares of the columns."""
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, split, BLOCK_K)
    await_inputs(overlapped)
    token = tl.arange(0, BLOCK_M)
    real = token < m
    from_rows = weight + row.to(tl.int64)[:, None] * k
    from_tokens = x + token.to(tl.int64)[:, None] * x_stride
    if residual is not None:
        added = read_residual(residual, row, known, token, m, n)
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(first, stop, BLOCK_K, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_K)
        inside = column < stop
        weights = _read_weights(from_rows + column[None, :], known, inside, even)
        if even:
            tokens = tl.load(from_tokens + column[None, :], mask=real[:, None], other=0.0)
        else:
            tokens = tl.load(from_tokens + column[None, :], mask=real[:, None] & inside[None, :], other=0.0)
        sums = tl.dot(weights, tl.trans(tokens), sums, input_precision="ieee")
    if shared:
        at = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + token[None, :]
        if not leave_share(shares, counters, sums, at, tl.program_id(0), tl.program_id(1), split):
            return
        sums = add_shares(shares, counters, at, tl.program_id(0), split)
    if residual is not None:
        sums += added.to(tl.float32)
    _store(sums, bias, out, row, known, token, m, n, gate, BLOCK_N, BLOCK_M)
