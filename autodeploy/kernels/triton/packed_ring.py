"""Matmuls of few rows by weights of 8 and 4 bits that are on their way before the inputs are there.

See `ring`. The weight is read as numbers of 16 bits, which reach registers as the matrix units take their left operand
of 16-bit floats: two neighbours of a row share a register. Masking the same bits of both leaves two columns that are
four apart (two, in int8) as a pair, so that no byte is ever moved. What stands at each place is an operand of its own:
it is multiplied by every fourth column of x, which is read as words of four.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, let_next_start
from autodeploy.kernels.triton.quantized import QuantizedConfig, RingLaunch, fit
from autodeploy.kernels.triton.ring import finish
from autodeploy.kernels.triton.rows import described
from autodeploy.kernels.triton.unpack import halves, quarters


@triton.jit
def _columns_at(words, dtype: tl.constexpr, at: tl.constexpr):
    """The columns of 16 bits at a place within the words that rows were read in."""
    return (words >> (16 * at)).to(tl.int16).to(dtype, bitcast=True)


@triton.jit
def _read_words(from_tokens, real, start, k, PARTS: tl.constexpr, BLOCK_K: tl.constexpr):  # noqa: N803
    word = start // PARTS + tl.arange(0, BLOCK_K // PARTS)
    return tl.load(from_tokens + word[None, :], mask=real[:, None] & (word * PARTS < k)[None, :], other=0)


@triton.jit
def _read_scales(scale, row, known, start, k, groups, GROUP: tl.constexpr):  # noqa: N803
    at = row * groups + (start // GROUP if GROUP > 0 else 0)
    return tl.load(scale + at, mask=known & (start < k), other=0.0)


@triton.jit
def _turn(packed, words, scales, sums, dtype: tl.constexpr, PARTS: tl.constexpr, GROUP: tl.constexpr):  # noqa: N803
    """The sums after the columns of a turn, which share the scales of their rows."""
    products = tl.zeros(sums.shape, tl.float32) if GROUP > 0 else sums
    if PARTS == 4:
        first, second, third, last = quarters(packed, dtype)
        products = tl.dot(first, _columns_at(words, dtype, 0).T, products)
        products = tl.dot(second, _columns_at(words, dtype, 1).T, products)
        products = tl.dot(third, _columns_at(words, dtype, 2).T, products)
        products = tl.dot(last, _columns_at(words, dtype, 3).T, products)
    else:
        first, last = halves(packed, dtype)
        products = tl.dot(first, _columns_at(words, dtype, 0).T, products)
        products = tl.dot(last, _columns_at(words, dtype, 1).T, products)
    if GROUP > 0:
        products = sums + products * scales.to(tl.float32)[:, None]
    return products


@triton.jit(do_not_specialize=["m", "split"])
def packed_ring_kernel(
    x,
    weight,
    scale,
    bias,
    out,
    shares,
    counters,
    m,
    n,
    k,
    split,
    x_stride,
    groups,
    gate: tl.constexpr,
    shared: tl.constexpr,
    overlapped: tl.constexpr,
    PARTS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    BLOCK_K: tl.constexpr,  # noqa: N803
    STAGES: tl.constexpr,  # noqa: N803
) -> None:
    """Up to BLOCK_M rows x by a weight of which PARTS numbers are 16 bits; x comes as words of as many.

    A group of columns is no shorter than BLOCK_K; GROUP is 0 where a row has one scale. Program (i, s) multiplies the
    s-th of `split` shares of the columns of BLOCK_N rows of a weight of n rows; with a gate, of a weight of 2 n, it
    takes as many of what is gated.
    """
    let_next_start(overlapped)
    first_row = tl.program_id(0) * BLOCK_N
    row = first_row + tl.arange(0, BLOCK_N)
    known = row < n
    turns = tl.cdiv(tl.cdiv(k, BLOCK_K), split)
    first = tl.program_id(1) * turns * BLOCK_K
    stop = tl.minimum(first + turns * BLOCK_K, k)
    token = tl.arange(0, BLOCK_M)
    real = token < m
    from_tokens = x + token.to(tl.int64)[:, None] * x_stride
    dtype: tl.constexpr = out.dtype.element_ty
    later = _read_words(from_tokens, real & (k < 0), first, k, PARTS, BLOCK_K)
    next_scales = _read_scales(scale, row, known, first, k, groups, GROUP)
    gated_scales = next_scales
    if gate is not None:
        next_gated_scales = _read_scales(scale, n + row, known, first, k, groups, GROUP)
        gated_scales = next_gated_scales
    scales = next_scales
    y = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    gated = y
    for start in tl.range(first, stop, BLOCK_K, num_stages=STAGES):
        packed = weight.load([first_row, start // PARTS])
        if GROUP > 0:
            scales = next_scales
            next_scales = _read_scales(scale, row, known, start + BLOCK_K, k, groups, GROUP)
        if gate is not None:
            gated_packed = weight.load([n + first_row, start // PARTS])
            if GROUP > 0:
                gated_scales = next_gated_scales
                next_gated_scales = _read_scales(scale, n + row, known, start + BLOCK_K, k, groups, GROUP)
        if start == first:
            await_inputs(overlapped)
            words = _read_words(from_tokens, real, start, k, PARTS, BLOCK_K)
            later = _read_words(from_tokens, real, start + BLOCK_K, k, PARTS, BLOCK_K)
        else:
            words = later
            later = _read_words(from_tokens, real, start + BLOCK_K, k, PARTS, BLOCK_K)
        y = _turn(packed, words, scales, y, dtype, PARTS, GROUP)
        if gate is not None:
            gated = _turn(gated_packed, words, gated_scales, gated, dtype, PARTS, GROUP)
    await_inputs(overlapped)  # a program without columns must wait as well before it writes
    if GROUP == 0:
        y *= scales.to(tl.float32)[:, None]
        gated *= gated_scales.to(tl.float32)[:, None]
    finish(
        y, gated, bias, out, shares, counters, row, known, token, real, n, split, gate, shared, BLOCK_M, BLOCK_N
    )  # fmt: skip


def packed_ring(
    rows: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    out: Tensor,
    config: QuantizedConfig,
    gate: str | None,
) -> None:
    """Fill out `[m, n]` by the ring: int8, or int4 without zero points, in groups no shorter than a turn.

    rows are of 16-bit floats, and those of the weight of a multiple of 16 bytes.
    """
    (m, k), n = rows.shape, out.shape[-1]
    parts, words = (2, torch.int32) if weight.dtype == torch.int8 else (4, torch.int64)
    rows, group = _as_words(rows, words), 0 if scale.shape[1] == 1 else k // scale.shape[1]
    config = fit(config, k, group)
    launch = RingLaunch.of(config, m, n, gate, rows.device)
    packed_ring_kernel[launch.grid](
        rows, described(weight.view(torch.int16), launch.block_n, config.block_k // parts), scale, bias, out,
        launch.shares, launch.counters, m, n, k, config.split_k, rows.stride(0), scale.shape[1],
        PARTS=parts, GROUP=group, BLOCK_K=config.block_k, **launch.options,
    )  # fmt: skip


def _as_words(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows as words of several elements; a copy only where they do not begin with words."""
    each = dtype.itemsize // rows.itemsize
    aligned = rows.data_ptr() % dtype.itemsize == 0 and (rows.stride(0) % each == 0 or rows.shape[0] == 1)
    return (rows if aligned else rows.clone(memory_format=torch.contiguous_format)).view(dtype)
