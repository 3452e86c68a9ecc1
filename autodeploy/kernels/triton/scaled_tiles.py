"""Matmuls of many rows of quantized activations: tiles brought by the tensor memory accelerator, scaled at the end.

See `tiles`, which this follows; scales here are those of whole rows or tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.activation import activation
from autodeploy.kernels.triton.launch import await_inputs


@triton.jit
def _finished(y, bias, scale, row, known, SCALE_ROWS: tl.constexpr):  # noqa: N803
    """The products of rows of a weight with their scales and bias."""
    ws = tl.load(scale) if SCALE_ROWS == 0 else tl.load(scale + row, mask=known, other=0.0)[:, None]
    y = y.to(tl.float32) * ws
    if bias is not None:
        y += tl.load(bias + row, mask=known, other=0.0).to(tl.float32)[:, None]
    return y


@triton.jit(do_not_specialize=["m"])
def scaled_tiles_kernel(
    x,
    x_scale,
    weight,
    weight_scale,
    bias,
    out,
    m,
    n,
    k,
    x_groups,
    gate: tl.constexpr,
    integer: tl.constexpr,
    overlapped: tl.constexpr,
    SCALE_ROWS: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """`x @ weight.T`, scaled, from descriptors of x `[m, k]` and of a weight of n rows, or of 2 n with a gate.

    Tiles of the same weights are neighbours. With a gate, a program takes BLOCK_N rows of each half.
    """
    rows = tl.cdiv(m, BLOCK_M)
    first_token = tl.program_id(0) % rows * BLOCK_M
    first_row = tl.program_id(0) // rows * BLOCK_N
    exact: tl.constexpr = tl.int32 if integer else tl.float32
    await_inputs(overlapped)
    y = tl.zeros((BLOCK_N, BLOCK_M), exact)
    gated = y
    for start in tl.range(0, k, BLOCK_K, num_stages=STAGES):
        tokens = x.load([first_token, start])
        y = tl.dot(weight.load([first_row, start]), tokens.T, y, out_dtype=exact)
        if gate is not None:
            gated = tl.dot(weight.load([n + first_row, start]), tokens.T, gated, out_dtype=exact)
    row = first_row + tl.arange(0, BLOCK_N)
    token = first_token + tl.arange(0, BLOCK_M)
    known, real = row < n, token < m
    xs = tl.load(x_scale + token * x_groups, mask=real, other=0.0)[None, :]
    dtype = out.dtype.element_ty
    # x's scale comes first: the bias is not to be scaled
    z = _finished(y.to(tl.float32) * xs, bias, weight_scale, row, known, SCALE_ROWS)
    if gate is not None:
        other = _finished(gated.to(tl.float32) * xs, bias, weight_scale, n + row, known, SCALE_ROWS)
        z = activation(z, gate, dtype) * other
    tl.store(out + token.to(tl.int64)[None, :] * n + row[:, None], z.to(dtype), mask=known[:, None] & real[None, :])
