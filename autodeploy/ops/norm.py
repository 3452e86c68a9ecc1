"""Normalizations over the last dimension, computed in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


def _rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0, scale_in_float32: bool = False
) -> Tensor:
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    if weight is None:
        return h.to(x.dtype)
    if scale_in_float32:
        return (h * (weight.float() + offset)).to(x.dtype)
    return h.to(x.dtype) * (weight + offset)


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    scale = None if weight is None else weight.float()
    shift = None if bias is None else bias.float()
    return torch.nn.functional.layer_norm(x.float(), x.shape[-1:], scale, shift, eps).to(x.dtype)


def _add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0, scale_in_float32: bool = False
) -> tuple[Tensor, Tensor]:
    total = x + residual
    return _rms_norm(total, weight, eps, offset, scale_in_float32), total


def _add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    total = x + residual
    return _layer_norm(total, weight, bias, eps), total


def _fake_add_norm(x: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
    normed = torch.empty_like(x, memory_format=torch.contiguous_format)
    return normed, torch.empty_like(normed)


rms_norm = CanonicalOp(
    "rms_norm(Tensor x, Tensor? weight, float eps, float offset=0.0, bool scale_in_float32=False) -> Tensor",
    _rms_norm,
    lambda x, *_, **__: torch.empty_like(x, memory_format=torch.contiguous_format),
)
"""Root-mean-square norm of `x [..., D]` by `weight [D]` (Zhang and Sennrich, 2019).

`offset` is added to the weight (1.0 in Gemma). `scale_in_float32` multiplies by the weight before rounding to x's
dtype (Gemma, OLMo 2), otherwise after (Llama).
"""

layer_norm = CanonicalOp(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, float eps) -> Tensor",
    _layer_norm,
    lambda x, *_, **__: torch.empty_like(x, memory_format=torch.contiguous_format),
)
"""Layer norm of `x [..., D]` by `weight [D]` and `bias [D]` (Ba et al., 2016)."""

add_rms_norm = CanonicalOp(
    "add_rms_norm(Tensor x, Tensor residual, Tensor? weight, float eps, float offset=0.0,"
    " bool scale_in_float32=False) -> (Tensor, Tensor)",
    _add_rms_norm,
    _fake_add_norm,
)
"""`rms_norm(x + residual)` and the sum itself, both `[..., D]` like x and residual, which are of one shape and dtype.

The sum is rounded to that dtype before it is normalized; the other arguments are those of `rms_norm`.
"""

add_layer_norm = CanonicalOp(
    "add_layer_norm(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)",
    _add_layer_norm,
    _fake_add_norm,
)
"""`layer_norm(x + residual)` and the sum itself, as `add_rms_norm` gives them."""
