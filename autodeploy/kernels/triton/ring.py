"""Matmuls of few rows whose weights are on their way before the inputs are there (compute capability 9.0).

The tensor memory accelerator fills a ring of blocks of the weight, which no kernel writes, while the kernels before
this one finish: norms, rotations and attention of few rows leave the memory idle. The few rows of the batch come
through registers, one turn ahead. They are loaded in both branches of a condition, since the compiler would otherwise
put them into the ring, ahead of the wait. What they start as is loaded too, but nothing is read: for a constant it
would choose a layout that stores two bytes at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.activation import activation
from autodeploy.kernels.triton.launch import await_inputs, let_next_start
from autodeploy.kernels.triton.shares import add_shares, leave_share
from autodeploy.kernels.triton.tiles import add_bias, add_residual


@triton.jit
def read_tokens(from_tokens, real, start, k, BLOCK_K: tl.constexpr):  # noqa: N803
    """BLOCK_K columns of rows from `start`, zeros for what there is not."""
    column = start + tl.arange(0, BLOCK_K)
    return tl.load(from_tokens + column[None, :], mask=real[:, None] & (column < k)[None, :], other=0.0)


@triton.jit
def finish(
    y,
    gated,
    bias,
    out,
    shares,
    counters,
    row,
    known,
    token,
    real,
    n,
    split,
    gate: tl.constexpr,
    shared: tl.constexpr,
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    residual=None,
) -> None:
    """Add up the shares of a tile where this program is the last of it, and write it.

    It is shifted, gated or added to a residual `[m, n]`, and rounded once.
    """
    if shared:
        tile = tl.program_id(0)
        at = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + token[None, :]
        if gate is not None:
            others = shares + tl.cast(split, tl.int64) * tl.num_programs(0) * y.numel
            to = others + (tl.cast(tile, tl.int64) * split + tl.program_id(1)) * y.numel
            tl.store(to + at, gated)
        if not leave_share(shares, counters, y, at, tile, tl.program_id(1), split):
            return
        if gate is not None:
            gated = add_shares(others, counters, at, tile, split)
        y = add_shares(shares, counters, at, tile, split)
    y = add_bias(y, bias, row, known)
    dtype = out.dtype.element_ty
    if gate is not None:
        y = activation(y, gate, dtype) * add_bias(gated, bias, n + row, known)
    at = token[None, :] * n + row[:, None]
    wanted = known[:, None] & real[None, :]
    y = add_residual(y, residual, at, wanted)
    tl.store(out + at, y.to(dtype), mask=wanted)


@triton.jit(do_not_specialize=["m", "split"])
def ring_kernel(
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
    overlapped: tl.constexpr,
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`x @ weight.T` for up to BLOCK_M rows, from the descriptor of a weight of n rows, or of 2 n with a gate.

    Program (i, s) multiplies the s-th of `split` shares of the columns of BLOCK_N rows; with a gate, it takes as many
    of what is gated.
    """
    let_next_start(overlapped)
    first_row = tl.program_id(0) * BLOCK_N
    turns = tl.cdiv(tl.cdiv(k, BLOCK_K), split)
    first = tl.program_id(1) * turns * BLOCK_K
    stop = tl.minimum(first + turns * BLOCK_K, k)
    token = tl.arange(0, BLOCK_M)
    real = token < m
    from_tokens = x + token.to(tl.int64)[:, None] * x_stride
    later = read_tokens(from_tokens, real & (k < 0), first, k, BLOCK_K)
    y = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    gated = y
    for start in tl.range(first, stop, BLOCK_K, num_stages=STAGES):
        weights = weight.load([first_row, start])
        if gate is not None:
            gated_weights = weight.load([n + first_row, start])
        if start == first:
            await_inputs(overlapped)
            tokens = read_tokens(from_tokens, real, start, k, BLOCK_K)
            later = read_tokens(from_tokens, real, start + BLOCK_K, k, BLOCK_K)
        else:
            tokens = later
            later = read_tokens(from_tokens, real, start + BLOCK_K, k, BLOCK_K)
        y = tl.dot(weights, tokens.T, y, input_precision="ieee")
        if gate is not None:
            gated = tl.dot(gated_weights, tokens.T, gated, input_precision="ieee")
    await_inputs(overlapped)  # a program without columns must wait as well before it writes

    row = first_row + tl.arange(0, BLOCK_N)
    finish(
        y, gated, bias, out, shares, counters, row, row < n, token, real, n, split, gate, shared, BLOCK_M, BLOCK_N,
        residual,
    )  # fmt: skip
