"""Matmuls of few rows of quantized activations whose weights are on their way before the inputs are there.

See `ring`, which this follows, and why tokens are read in both branches of a condition; scales here are those of whole
rows or tensors.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, let_next_start
from autodeploy.kernels.triton.quantized import QuantizedConfig, RingLaunch
from autodeploy.kernels.triton.ring import finish, read_tokens
from autodeploy.kernels.triton.rows import described


@triton.jit(do_not_specialize=["m", "split"])
def scaled_ring_kernel(
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
    integer: tl.constexpr,
    gate: tl.constexpr,
    shared: tl.constexpr,
    overlapped: tl.constexpr,
    SCALE_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`x @ weight.T`, scaled, for up to BLOCK_M rows, from the descriptor of a weight of n rows, or of 2 n with a gate.

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
    row = first_row + tl.arange(0, BLOCK_N)
    known = row < n
    ws = tl.load(weight_scale + row * SCALE_ROWS, mask=known, other=0.0)
    later = read_tokens(from_tokens, real & (k < 0), first, k, BLOCK_K)
    exact: tl.constexpr = tl.int32 if integer else tl.float32
    y = tl.zeros((BLOCK_N, BLOCK_M), exact)
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
        y = tl.dot(weights, tokens.T, y, out_dtype=exact)
        if gate is not None:
            gated = tl.dot(gated_weights, tokens.T, gated, out_dtype=exact)
    await_inputs(overlapped)  # a program without columns must wait as well before it writes
    xs = tl.load(x_scale + token * x_groups, mask=real, other=0.0)
    y = y.to(tl.float32) * (ws[:, None] * xs[None, :])
    gated = gated.to(tl.float32)
    if gate is not None:
        gated_ws = tl.load(weight_scale + (n + row) * SCALE_ROWS, mask=known, other=0.0)
        gated *= gated_ws[:, None] * xs[None, :]
    finish(
        y, gated, bias, out, shares, counters, row, known, token, real, n, split, gate, shared, BLOCK_M, BLOCK_N
    )  # fmt: skip


def scaled_ring(
    rows: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out: Tensor,
    config: QuantizedConfig,
    gate: str | None,
) -> None:
    """Fill out `[m, n]` by the ring; k is a multiple of 16, and scales are those of whole rows or tensors."""
    (m, k), n = rows.shape, out.shape[-1]
    launch = RingLaunch.of(config, m, n, gate, rows.device)
    scaled_ring_kernel[launch.grid](
        rows, x_scale, described(weight, launch.block_n, config.block_k), weight_scale, bias, out,
        launch.shares, launch.counters, m, n, k, config.split_k, rows.stride(0), 0 if x_scale.numel() == 1 else 1,
        integer=weight.dtype == torch.int8, SCALE_ROWS=0 if weight_scale.numel() == 1 else 1,
        BLOCK_K=config.block_k, **launch.options,
    )  # fmt: skip
