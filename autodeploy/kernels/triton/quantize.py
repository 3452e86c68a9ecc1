"""Activations in 8 bits, alone or on their way out of the norm or gate that makes them: one pass over each row.

Few rows leave most multiprocessors idle: where CUDA C++ can be compiled, `kernels.cuda.quantize` shares them out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.cuda import quantize as shared_out
from autodeploy.kernels.triton.activation import activation
from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.rows import dense, rows_of
from autodeploy.kernels.triton.unpack import NATIVE
from autodeploy.quantization.formats import FORMATS

ROUNDS = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a small float32 and taken off again, it leaves the nearest integer, ties to even."""

LARGEST = tl.constexpr(3.4e38)
"""No reciprocal is infinite: times zero, that would be no number."""


@triton.jit
def _rounded_to_e4m3(x):
    """The nearest numbers of e4m3, in float32: the interpreter's own conversion loses carries into the exponent."""
    exponent = (x.to(tl.int32, bitcast=True) >> 23) & 255
    place = tl.maximum(exponent, 121) + 20  # of 1.5 * 2^23 units of the last of four bits
    rounds = ((place << 23) | 0x400000).to(tl.float32, bitcast=True)
    return (x + rounds) - rounds


@triton.jit
def _divided(x, by):
    """x / by: a product by the reciprocal, and what it misses.

    The product alone misses by a bit; where the largest number of a row has few bits, one in sixteen of the others lies
    just between two that can be held.
    """
    inverse = tl.minimum(1.0 / by, LARGEST)
    about = x * inverse
    return tl.fma(tl.fma(-about, by, x), inverse, about)


@triton.jit
def _store_quantized(h, row, column, inside, values, scale, given, width, GROUP: tl.constexpr):  # noqa: N803
    """Scale the float32 row h `[groups, BLOCK / groups]`, each group by its largest or all by `given`, and round it.

    As a division does it, which alone would take longer than all else: see `_divided`.
    """
    integer: tl.constexpr = values.dtype.element_ty == tl.int8
    maximum: tl.constexpr = 127.0 if integer else 448.0
    if given is not None:
        factor = tl.load(given)
        if row == 0:
            tl.store(scale, factor)
        scaled = _divided(h, factor)
    else:
        largest = tl.max(tl.abs(h), axis=1)
        factors = tl.where(largest == 0.0, 1.0, tl.div_rn(largest, tl.full(largest.shape, maximum, tl.float32)))
        group = tl.arange(0, h.shape[0])
        if GROUP == 0:
            tl.store(scale + row + group, factors)
        else:
            tl.store(scale + row * (width // GROUP) + group, factors, mask=group < width // GROUP)
        scaled = _divided(h, factors[:, None])
    if integer or not NATIVE:  # the conversion to fp8 saturates
        scaled = tl.minimum(tl.maximum(scaled, -maximum), maximum)
    if integer:
        scaled = (scaled + ROUNDS) - ROUNDS
    elif not NATIVE:
        scaled = _rounded_to_e4m3(scaled)
    tl.store(values + row * width + column, scaled.to(values.dtype.element_ty), mask=inside)


@triton.jit
def _columns(width, GROUP: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803
    """The columns of a row by group `[groups, BLOCK / groups]`, and which of them exist."""
    SIZE: tl.constexpr = BLOCK if GROUP == 0 else GROUP  # noqa: N806
    column = tl.arange(0, BLOCK // SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    return column, column < width


@triton.jit
def _quantize_kernel(
    x,
    values,
    scale,
    given,
    x_stride,
    width,
    overlapped: tl.constexpr,
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    await_inputs(overlapped)
    row = tl.program_id(0).to(tl.int64)
    column, inside = _columns(width, GROUP, BLOCK)
    h = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    _store_quantized(h, row, column, inside, values, scale, given, width, GROUP)


@triton.jit
def _norm_kernel(
    x,
    residual,
    weight,
    total,
    values,
    scale,
    given,
    x_stride,
    residual_stride,
    width,
    eps,
    offset,
    scale_in_float32: tl.constexpr,
    overlapped: tl.constexpr,
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """See `norm`: rounded where the references of the norm and of the quantizer round."""
    row = tl.program_id(0).to(tl.int64)
    column, inside = _columns(width, GROUP, BLOCK)
    dtype = x.dtype.element_ty
    if weight is not None:  # no kernel writes it: its way here overlaps the kernel before
        w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32) + offset
    await_inputs(overlapped)
    h = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        h += tl.load(residual + row * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
        h = h.to(dtype)
        tl.store(total + row * width + column, h, mask=inside)
        h = h.to(tl.float32)
    h = h * tl.rsqrt(tl.sum(h * h) / width + eps)
    if weight is not None:
        if scale_in_float32:  # noqa: SIM108  decided when the kernel is compiled
            h = h * w
        else:
            h = h.to(dtype).to(tl.float32) * w.to(dtype).to(tl.float32)
    h = h.to(dtype).to(tl.float32)
    _store_quantized(h, row, column, inside, values, scale, given, width, GROUP)


@triton.jit
def _gate_kernel(
    gate,
    up,
    values,
    scale,
    given,
    gate_stride,
    up_stride,
    width,
    kind: tl.constexpr,
    overlapped: tl.constexpr,
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    await_inputs(overlapped)
    row = tl.program_id(0).to(tl.int64)
    column, inside = _columns(width, GROUP, BLOCK)
    dtype = gate.dtype.element_ty
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    h = (activation(g, kind, dtype) * u).to(dtype).to(tl.float32)
    _store_quantized(tl.where(inside, h, 0.0), row, column, inside, values, scale, given, width, GROUP)


def _results(x: Tensor, format: str, group: int, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Room for the values and scales of x."""
    values = torch.empty(x.shape, dtype=FORMATS[format], device=x.device)
    if scale is not None:
        return values, torch.empty_like(scale)
    groups = x.shape[-1] // (group or x.shape[-1])
    return values, torch.empty((*x.shape[:-1], groups), dtype=torch.float32, device=x.device)


def _options(x: Tensor, group: int, scale: Tensor | None) -> dict[str, int | bool]:
    """Launch options for rows like x's: 16 elements a thread."""
    block = triton.next_power_of_2(x.shape[-1])
    grouped = 0 if scale is not None or group == x.shape[-1] else group
    return {"GROUP": grouped, "BLOCK": block, "num_warps": min(max(block // 512, 1), 32), **overlap(x.device)}


def quantize(x: Tensor, format: str, group: int = 0, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`ops.quantize` for rows that one program can hold and groups of a power of two."""
    values, scales = _results(x, format, group, scale)
    rows = rows_of(x)
    if shared_out.serves(rows, group=group, scale=scale):
        shared_out.quantize(rows, values, scales)
    elif x.numel():
        operands = (rows, values, scales, scale, rows.stride(0), rows.shape[1])
        _quantize_kernel[(rows.shape[0],)](*operands, **_options(rows, group, scale))
    return values, scales


def rms_norm_quantize(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    offset: float,
    scale_in_float32: bool,
    format: str,
    group: int = 0,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`ops.rms_norm_quantize` for such rows."""
    values, scales = _results(x, format, group, scale)
    _norm(x, None, weight, None, values, scales, (eps, offset, scale_in_float32), group, scale)
    return values, scales


def add_rms_norm_quantize(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float,
    offset: float,
    scale_in_float32: bool,
    format: str,
    group: int = 0,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.add_rms_norm_quantize` for such rows."""
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    values, scales = _results(x, format, group, scale)
    _norm(x, residual, weight, total, values, scales, (eps, offset, scale_in_float32), group, scale)
    return total, values, scales


def _norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    total: Tensor | None,
    values: Tensor,
    scales: Tensor,
    how: tuple[float, float, bool],
    group: int,
    scale: Tensor | None,
) -> None:
    rows = rows_of(x)
    if not rows.numel():
        return
    residuals, weight = None if residual is None else rows_of(residual), dense(weight)
    if shared_out.serves(rows, residuals, weight, group=group, scale=scale):
        shared_out.norm_and_quantize(rows, residuals, weight, total, values, scales, how)
        return
    strides = (rows.stride(0), 0 if residuals is None else residuals.stride(0))
    operands = (rows, residuals, weight, total, values, scales, scale, *strides, rows.shape[1])
    _norm_kernel[(rows.shape[0],)](*operands, *how, **_options(rows, group, scale))


def gated_activation_quantize(
    gate: Tensor, up: Tensor, kind: str, format: str, group: int = 0, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`ops.gated_activation_quantize` for such rows."""
    values, scales = _results(gate, format, group, scale)
    gates, ups = rows_of(gate), rows_of(up)
    if kind in shared_out.GATES and shared_out.serves(gates, ups, group=group, scale=scale):
        shared_out.gate_and_quantize(gates, ups, kind, values, scales)
    elif gate.numel():
        operands = (gates, ups, values, scales, scale, gates.stride(0), ups.stride(0), gates.shape[1])
        _gate_kernel[(gates.shape[0],)](*operands, kind, **_options(gates, group, scale))
    return values, scales
