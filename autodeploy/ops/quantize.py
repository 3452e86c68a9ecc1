"""Activations in 8 bits, alone or on their way out of the operator that makes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autodeploy.ops.activation import gated_activation
from autodeploy.ops.norm import add_rms_norm, rms_norm
from autodeploy.ops.op import CanonicalOp
from autodeploy.quantization.formats import FORMATS, MAXIMUM

Quantized = tuple[Tensor, Tensor]


def _quantize(x: Tensor, format: str, group: int = 0, scale: Tensor | None = None) -> Quantized:
    width = group or x.shape[-1]
    rows = x.float().reshape(*x.shape[:-1], x.shape[-1] // width, width)
    found = scale.clone() if scale is not None else _dynamic(rows, MAXIMUM[format])
    values = rows / (found if scale is not None else found.unsqueeze(-1))
    if format == "int8":
        values = values.round()
    return values.clamp(-MAXIMUM[format], MAXIMUM[format]).to(FORMATS[format]).reshape(x.shape), found


def _dynamic(rows: Tensor, maximum: float) -> Tensor:
    amax = rows.abs().amax(-1)
    return torch.where(amax == 0, 1.0, amax / maximum)


def _fake_quantize(x: Tensor, format: str, group: int = 0, scale: Tensor | None = None) -> Quantized:
    values = torch.empty(x.shape, dtype=FORMATS[format], device=x.device)
    if scale is not None:
        return values, torch.empty_like(scale)
    return values, x.new_empty((*x.shape[:-1], x.shape[-1] // (group or x.shape[-1])), dtype=torch.float32)


quantize = CanonicalOp(
    "quantize(Tensor x, str format, int group=0, Tensor? scale=None) -> (Tensor, Tensor)", _quantize, _fake_quantize
)
"""Quantize `x [..., K]`: values of its shape in `format`, and the float32 scale that they are to be multiplied by.

`format` is "fp8" (float8_e4m3fn, to 448) or "int8" (symmetric, to 127). Without a `scale` each group of `group`
elements of a row (all of it when 0) is scaled so that its largest reaches the format's: the scale is
`[..., K / group]`, 1 where a group is zero. With a static `scale []` that one is used, and a copy of it returned.
Values are rounded to the nearest, ties to even, and saturate.
"""


def _rms_norm_quantize(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    offset: float,
    scale_in_float32: bool,
    format: str,
    group: int = 0,
    scale: Tensor | None = None,
) -> Quantized:
    return _quantize(rms_norm.reference(x, weight, eps, offset, scale_in_float32), format, group, scale)


def _add_rms_norm_quantize(
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
    normed, total = add_rms_norm.reference(x, residual, weight, eps, offset, scale_in_float32)
    return total, *_quantize(normed, format, group, scale)


def _gated_activation_quantize(
    gate: Tensor, up: Tensor, kind: str, format: str, group: int = 0, scale: Tensor | None = None
) -> Quantized:
    return _quantize(gated_activation.reference(gate, up, kind), format, group, scale)


def _fake_add_rms_norm_quantize(
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
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    return total, *_fake_quantize(x, format, group, scale)


def _fake_like_first(num_between: int) -> Callable[..., Quantized]:
    """Shapes of an operator whose quantizing arguments come `num_between` arguments behind its first."""

    def fake(x: Tensor, *rest: object) -> Quantized:
        return _fake_quantize(x, *rest[num_between:])  # type: ignore[arg-type]

    return fake


_QUANTIZING = "str format, int group=0, Tensor? scale=None)"

rms_norm_quantize = CanonicalOp(
    f"rms_norm_quantize(Tensor x, Tensor? weight, float eps, float offset, bool scale_in_float32, {_QUANTIZING}"
    " -> (Tensor, Tensor)",
    _rms_norm_quantize,
    _fake_like_first(4),
)
"""`quantize(rms_norm(x, ...), ...)`: values and scale. A kernel need not round the norm to x's dtype in between."""

add_rms_norm_quantize = CanonicalOp(
    "add_rms_norm_quantize(Tensor x, Tensor residual, Tensor? weight, float eps, float offset, bool scale_in_float32,"
    f" {_QUANTIZING} -> (Tensor, Tensor, Tensor)",
    _add_rms_norm_quantize,
    _fake_add_rms_norm_quantize,
)
"""The sum `x + residual` in their dtype, then values and scale of its `rms_norm`, as `rms_norm_quantize` gives them."""

gated_activation_quantize = CanonicalOp(
    f"gated_activation_quantize(Tensor gate, Tensor up, str kind, {_QUANTIZING} -> (Tensor, Tensor)",
    _gated_activation_quantize,
    _fake_like_first(2),
)
"""`quantize(gated_activation(gate, up, kind), ...)`: values and scale, with no rounding in between to be relied on."""
