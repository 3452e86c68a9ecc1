"""The Triton kernels of quantized operators, and what they decline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.cuda import narrow, narrow_plan, packed_tiles, packed_tiles_plan, skinny, skinny_plan
from autodeploy.kernels.table import Kernel, Tunable
from autodeploy.kernels.triton import packed_linear, quantize, scaled_linear
from autodeploy.kernels.triton.quantized import QuantizedConfig, ScaleLayout
from autodeploy.ops import CanonicalOp
from autodeploy.quantization.formats import FORMATS

Make = Callable[[CanonicalOp, Callable[..., object], Callable[..., str | None]], Kernel]
VALUES = (torch.float8_e4m3fn, torch.int8)
MAX_WIDTH = 65536 // 4  # of a row that one program holds in registers
LEAST_GROUP = 16
BY_HAND = "cuda"
BY_MATRIX_UNITS = "wgmma"
BY_SMALL_INSTRUCTIONS = "mma"


def quantized_kernels(make: Make) -> tuple[Kernel, ...]:
    """The kernels, each made of an operator, what runs it and what it declines."""
    packed = Tunable(packed_linear.candidates, packed_linear.bind, QuantizedConfig)
    scaled = Tunable(scaled_linear.candidates, scaled_linear.bind, QuantizedConfig)
    packed_rings, scaled_rings = (
        {BY_SMALL_INSTRUCTIONS: Tunable(skinny_plan.candidates, bind, skinny_plan.SkinnyCut)}
        for bind in (skinny.bind_packed, skinny.bind_scaled)
    )
    by_hand = {
        BY_HAND: Tunable(narrow_plan.candidates, narrow.bind, narrow_plan.NarrowConfig),
        BY_MATRIX_UNITS: Tunable(packed_tiles_plan.candidates, packed_tiles.bind, packed_tiles_plan.PackedTileConfig),
        **packed_rings,
    }
    gated_packed = replace(packed, bind=packed_linear.bind_gated)
    gated_scaled = replace(scaled, bind=scaled_linear.bind_gated)
    return (
        *_tuned(make(ops.packed_linear, packed_linear.packed_linear, _packed), packed, by_hand),
        *_tuned(make(ops.packed_gated_linear, packed_linear.packed_gated_linear, _packed), gated_packed, by_hand),
        *_tuned(make(ops.scaled_linear, scaled_linear.scaled_linear, _scaled), scaled, scaled_rings),
        *_tuned(make(ops.scaled_gated_linear, scaled_linear.scaled_gated_linear, _scaled), gated_scaled, scaled_rings),
        replace(make(ops.quantize, quantize.quantize, _quantize), dtypes=VALUES),
        replace(make(ops.rms_norm_quantize, quantize.rms_norm_quantize, _norm), dtypes=VALUES),
        make(ops.add_rms_norm_quantize, quantize.add_rms_norm_quantize, _sum_norm),
        replace(make(ops.gated_activation_quantize, quantize.gated_activation_quantize, _gate), dtypes=VALUES),
    )


def _tuned(kernel: Kernel, tunable: Tunable, by_hand: Mapping[str, Tunable]) -> tuple[Kernel, ...]:
    """A kernel by Triton, and those by CUDA C++ for the numbers of rows that measurements choose them for."""
    others = (replace(kernel, backend=backend, priority=5, tunable=one) for backend, one in by_hand.items())
    return replace(kernel, tunable=tunable), *others


def _uneven(group: int, least: int) -> str | None:
    """Why groups of some columns cannot be told apart by a program, which takes a power of two of them; 0 is none."""
    if group and (group < least or group & (group - 1)):
        return f"groups of {group} are no power of two of at least {least}"
    return None


def _packed(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    kind: str | None = None,
) -> str | None:
    if kind is not None and kind not in ops.ACTIVATIONS:
        return f"no activation is named {kind!r}"
    if bias is not None and bias.dtype != x.dtype:
        return "the arguments differ in dtype"
    if zero is not None and (format != "int4" or zero.shape != scale.shape):
        return "zero points are not those of int4, one for each scale"
    layout = ScaleLayout.of(scale, weight.shape[0], x.shape[-1], blocked=format == "fp8")
    return _uneven(layout.group, LEAST_GROUP)


def _scaled(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    kind: str | None = None,
) -> str | None:
    if kind is not None and kind not in ops.ACTIVATIONS:
        return f"no activation is named {kind!r}"
    if x.dtype != weight.dtype or x.dtype not in VALUES:
        return "rows and weight are not both fp8 or both int8"
    groups = x_scale.shape[-1] if x_scale.dim() else 1
    return _uneven(0 if groups == 1 else x.shape[-1] // groups, 32)  # which the matrix units take at once


def _quantize(x: Tensor, format: str, group: int = 0, scale: Tensor | None = None) -> str | None:
    if format not in FORMATS or FORMATS[format] not in VALUES:
        return f"activations are not quantized to {format!r}"
    if x.shape[-1] > MAX_WIDTH:
        return f"rows of {x.shape[-1]} are wider than {MAX_WIDTH}"
    return _uneven(0 if group == x.shape[-1] else group, 1)


def _norm(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    offset: float,
    scale_in_float32: bool,
    format: str,
    group: int = 0,
    scale: Tensor | None = None,
) -> str | None:
    if weight is not None and weight.dtype != x.dtype:
        return "the arguments differ in dtype"
    return _quantize(x, format, group, scale)


def _sum_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float,
    offset: float,
    scale_in_float32: bool,
    format: str,
    group: int = 0,
    scale: Tensor | None = None,
) -> str | None:
    if residual.dtype != x.dtype:
        return "the arguments differ in dtype"
    return _norm(x, weight, eps, offset, scale_in_float32, format, group, scale)


def _gate(gate: Tensor, up: Tensor, kind: str, format: str, group: int = 0, scale: Tensor | None = None) -> str | None:
    if kind not in ops.ACTIVATIONS:
        return f"no activation is named {kind!r}"
    if gate.shape != up.shape or gate.dtype != up.dtype:
        return "gate and up differ"
    return _quantize(gate, format, group, scale)
