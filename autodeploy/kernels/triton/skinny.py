"""Matmuls with few rows: the weight is streamed once, and everything else hides behind that.

One row is a matrix-vector product on the ordinary units. Up to 64 rows go through the matrix units with the weight as
their left operand, so that its rows, not those of the batch, fill the instruction. Where the weight has too few rows
to occupy the chip, `split_k` programs share a row; their float32 partial sums are added in a fixed order by a second
kernel, so that results do not vary between runs.

Where the weight stacks the projections of a gate and of what it gates, a program takes as many rows of one as of the
other, and their products leave it as one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.activation import activation
from autodeploy.kernels.triton.launch import await_inputs


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
def _share_of_program(k, BLOCK_K: tl.constexpr, SPLIT_K: tl.constexpr):  # noqa: N803
    """The first of the weight's columns that a program multiplies, and the one behind its last."""
    share = tl.cdiv(tl.cdiv(k, SPLIT_K), BLOCK_K) * BLOCK_K
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
    SPLIT_K: tl.constexpr,  # noqa: N803
) -> None:
    """Write the products y `[BLOCK_N, BLOCK_M]` of rows of the weight by tokens: finished, or a share of them."""
    real = token < m
    if SPLIT_K > 1:
        width = n if gate is None else 2 * n
        at = (tl.program_id(1) * m + token)[None, :] * width + row[:, None]
        tl.store(out + at, y, mask=known[:, None] & real[None, :])
    else:
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


@triton.jit
def matvec_kernel(
    x,
    weight,
    bias,
    out,
    n,
    k,
    gate: tl.constexpr,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    SPLIT_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`weight @ x` for one row x; with SPLIT_K, program (i, s) writes its float32 share to `out[s]`.

    No kernel writes weights: the first are on their way before the inputs are awaited, so that the memory stays busy
    while the kernels before this one finish. Each turn adds up its own sums: registers hold weights instead.
    """
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, BLOCK_K, SPLIT_K)
    from_rows = weight + row.to(tl.int64)[:, None] * k
    column = first + tl.arange(0, BLOCK_K)
    weights = _read_weights(from_rows + column[None, :], known, column < stop, even)
    await_inputs(overlapped)
    values = _read_values(x + column, column < stop, even)
    y = tl.sum(weights.to(tl.float32) * values[None, :], axis=1)
    for start in tl.range(first + BLOCK_K, stop, BLOCK_K, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_K)
        inside = column < stop
        weights = _read_weights(from_rows + column[None, :], known, inside, even)
        values = _read_values(x + column, inside, even)
        y += tl.sum(weights.to(tl.float32) * values[None, :], axis=1)
    _store(y[:, None], bias, out, row, known, tl.arange(0, 1), 1, n, gate, BLOCK_N, 1, SPLIT_K)


@triton.jit
def skinny_kernel(
    x,
    weight,
    bias,
    out,
    m,
    n,
    k,
    x_stride,
    gate: tl.constexpr,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    SPLIT_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`x @ weight.T` for up to BLOCK_M rows; with SPLIT_K, program (i, s) writes its float32 share to `out[s]`."""
    row, known = _rows_of_program(n, gate is not None, BLOCK_N)
    first, stop = _share_of_program(k, BLOCK_K, SPLIT_K)
    await_inputs(overlapped)
    token = tl.arange(0, BLOCK_M)
    real = token < m
    from_rows = weight + row.to(tl.int64)[:, None] * k
    from_tokens = x + token.to(tl.int64)[:, None] * x_stride
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
    _store(sums, bias, out, row, known, token, m, n, gate, BLOCK_N, BLOCK_M, SPLIT_K)


@triton.jit
def _add_shares(shares, bias, token, row, m, width, inside, SPLIT_K: tl.constexpr):  # noqa: N803
    at = token * width + row
    y = tl.load(shares + at, mask=inside, other=0.0)
    for share in tl.static_range(1, SPLIT_K):
        y += tl.load(shares + share * m * width + at, mask=inside, other=0.0)
    if bias is not None:
        y += tl.load(bias + row, mask=inside, other=0.0).to(tl.float32)
    return y


@triton.jit
def finish_kernel(
    shares,
    bias,
    out,
    m,
    n,
    gate: tl.constexpr,
    overlapped: tl.constexpr,
    SPLIT_K: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """What one program a row would have stored: the sum over s of `shares[s]`, shifted and gated, rounded once."""
    await_inputs(overlapped)
    token = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    dtype = out.dtype.element_ty
    if gate is None:
        y = _add_shares(shares, bias, token, column, m, n, inside, SPLIT_K)
    else:
        gates = _add_shares(shares, bias, token, column, m, 2 * n, inside, SPLIT_K)
        y = activation(gates, gate, dtype) * _add_shares(shares, bias, token, n + column, m, 2 * n, inside, SPLIT_K)
    tl.store(out + token * n + column, y.to(dtype), mask=inside)
