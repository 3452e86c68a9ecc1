"""Matmuls of tiles that the tensor memory accelerator brings (compute capability 9.0).

The weight is the left operand of the matrix units, as in `skinny`, and up to 256 rows of the batch fill the other side
of one instruction: each weight is read from memory once, and what is read twice comes from the level-two cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.activation import activation
from autodeploy.kernels.triton.launch import await_inputs
from autodeploy.kernels.triton.shares import add_shares, leave_share

GROUP = tl.constexpr(8)


@triton.jit
def add_bias(y, bias, row, known):
    """The products y `[rows, tokens]` and the bias of the rows, where there is one."""
    if bias is not None:
        y += tl.load(bias + row, mask=known, other=0.0).to(tl.float32)[:, None]
    return y


@triton.jit
def add_residual(y, residual, at, wanted):
    """The products y and the residual at the same places, where there is one."""
    if residual is not None:
        y += tl.load(residual + at, mask=wanted, other=0.0).to(tl.float32)
    return y


@triton.jit(do_not_specialize=["m", "split"])
def tiles_kernel(
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
    gate: tl.constexpr,
    shared: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`x @ weight.T` from descriptors of x `[m, k]` and of a weight of n rows, or of 2 n with a gate.

    Program i takes tile `i % tiles` and share `i // tiles` of its columns. GROUP tiles of the same weights are
    neighbours, then come those of the next weights: what programs side by side read fits the level-two cache.
    With a gate, a program takes BLOCK_N rows of the gate, and as many of what it gates.
    """
    rows, columns = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    tiles = rows * columns
    tile = tl.program_id(0) % tiles
    share = tl.program_id(0) // tiles
    group = tile // (GROUP * columns) * GROUP
    height = tl.minimum(rows - group, GROUP)
    within = tile % (GROUP * columns)
    first_token = (group + within % height) * BLOCK_M
    first_row = within // height * BLOCK_N
    turns = tl.cdiv(tl.cdiv(k, BLOCK_K), split)
    first = share * turns * BLOCK_K
    stop = tl.minimum(first + turns * BLOCK_K, k)
    await_inputs(overlapped)
    y = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    gated = y
    for start in tl.range(first, stop, BLOCK_K, num_stages=STAGES):
        tokens = x.load([first_token, start])
        y = tl.dot(weight.load([first_row, start]), tokens.T, y)
        if gate is not None:
            gated = tl.dot(weight.load([n + first_row, start]), tokens.T, gated)

    row = first_row + tl.arange(0, BLOCK_N)
    token = first_token + tl.arange(0, BLOCK_M)
    known = row < n
    wanted = known[:, None] & (token < m)[None, :]
    if shared:
        at = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        if gate is not None:
            both = tl.cast(split, tl.int64) * tiles * BLOCK_N * BLOCK_M
            tl.store(shares + both + (tl.cast(tile, tl.int64) * split + share) * gated.numel + at, gated)
        if not leave_share(shares, counters, y, at, tile, share, split):
            return
        y = add_shares(shares, counters, at, tile, split)
        if gate is not None:
            gated = add_shares(shares + both, counters, at, tile, split)
    y = add_bias(y, bias, row, known)
    dtype = out.dtype.element_ty
    if gate is not None:
        y = activation(y, gate, dtype) * add_bias(gated, bias, n + row, known)
    at = token.to(tl.int64)[None, :] * n + row[:, None]
    y = add_residual(y, residual, at, wanted)
    tl.store(out + at, y.to(dtype), mask=wanted)
