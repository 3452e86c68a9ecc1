"""Matmuls with few rows: the weight is streamed once, and everything else hides behind that.

One row is a matrix-vector product on the ordinary units. Up to 64 rows go through the matrix units with the weight as
their left operand, so that its rows, not those of the batch, fill the instruction. Where the weight has too few rows
to occupy the chip, `split_k` programs share a row; their float32 partial sums are added in a fixed order by a second
kernel, so that results do not vary between runs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.launch import await_inputs


@triton.jit
def matvec_kernel(
    x,
    weight,
    bias,
    out,
    n,
    k,
    even: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    SPLIT_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`weight @ x` for one row x; with SPLIT_K, program (i, s) writes its float32 share to `out[s]`."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    share = tl.cdiv(tl.cdiv(k, SPLIT_K), BLOCK_K) * BLOCK_K
    first = tl.program_id(1) * share
    stop = tl.minimum(first + share, k)
    await_inputs(overlapped)
    known = row < n
    from_rows = weight + row.to(tl.int64)[:, None] * k
    sums = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in tl.range(first, stop, BLOCK_K, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_K)
        if even:
            values = tl.load(x + column).to(tl.float32)
            weights = tl.load(from_rows + column[None, :], eviction_policy="evict_first").to(tl.float32)
        else:
            inside = column < stop
            values = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
            weights = tl.load(from_rows + column[None, :], mask=known[:, None] & inside[None, :], other=0.0)
            weights = weights.to(tl.float32)
        sums += weights * values[None, :]
    y = tl.sum(sums, axis=1)
    if bias is not None:
        y += tl.load(bias + row, mask=known & (first == 0), other=0.0).to(tl.float32)
    tl.store(out + tl.program_id(1) * n + row, y.to(out.dtype.element_ty), mask=known)


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
    even: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    SPLIT_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`x @ weight.T` for up to BLOCK_M rows; with SPLIT_K, program (i, s) writes its float32 share to `out[s]`."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    share = tl.cdiv(tl.cdiv(k, SPLIT_K), BLOCK_K) * BLOCK_K
    first = tl.program_id(1) * share
    stop = tl.minimum(first + share, k)
    await_inputs(overlapped)
    known = row < n
    token = tl.arange(0, BLOCK_M)
    real = token < m
    from_rows = weight + row.to(tl.int64)[:, None] * k
    from_tokens = x + token.to(tl.int64)[:, None] * x_stride
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(first, stop, BLOCK_K, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_K)
        if even:
            weights = tl.load(from_rows + column[None, :], eviction_policy="evict_first")
            tokens = tl.load(from_tokens + column[None, :], mask=real[:, None], other=0.0)
        else:
            inside = column < stop
            weights = tl.load(from_rows + column[None, :], mask=known[:, None] & inside[None, :], other=0.0)
            tokens = tl.load(from_tokens + column[None, :], mask=real[:, None] & inside[None, :], other=0.0)
        sums = tl.dot(weights, tl.trans(tokens), sums, input_precision="ieee")
    if bias is not None:
        shift = tl.load(bias + row, mask=known & (first == 0), other=0.0).to(tl.float32)
        sums += shift[:, None]
    at = (tl.program_id(1) * m + token)[None, :] * n + row[:, None]
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=known[:, None] & real[None, :])


@triton.jit
def add_shares_kernel(
    shares,
    out,
    size,
    overlapped: tl.constexpr,
    SPLIT_K: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """The sum over s of `shares[s]`, rounded once."""
    await_inputs(overlapped)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    total = tl.load(shares + at, mask=inside, other=0.0)
    for share in tl.static_range(1, SPLIT_K):
        total += tl.load(shares + share * size + at, mask=inside, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)
