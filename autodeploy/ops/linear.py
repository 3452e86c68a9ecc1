"""A projection by a weight matrix: alone, with an activation or a residual, or as a gate and what it gates."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.activation import ACTIVATIONS, gated_activation
from autodeploy.ops.op import CanonicalOp


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def _linear_activation(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    return ACTIVATIONS[kind](_reference(x, weight, bias))


def _gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    gate, up = _reference(x, weight, bias).chunk(2, dim=-1)
    gated: Tensor = gated_activation.reference(gate, up, kind)
    return gated


def _residual_linear(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    return _reference(x, weight) + residual


def _fake_gated(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // 2))


def _fake(x: Tensor, weight: Tensor, *_: object, **__: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


linear = CanonicalOp("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", _reference, _fake)
"""`x [..., K] @ weight [N, K].T + bias [N] -> [..., N]`, all of one dtype."""

linear_activation = CanonicalOp(
    "linear_activation(Tensor x, Tensor weight, Tensor? bias, str kind) -> Tensor", _linear_activation, _fake
)
"""`activate(linear(x, weight, bias), kind)`: `[..., K] -> [..., N]`.

A kernel need not round the projection to its dtype before the activation.
"""

gated_linear = CanonicalOp(
    "gated_linear(Tensor x, Tensor weight, Tensor? bias, str kind) -> Tensor", _gated_linear, _fake_gated
)
"""`gated_activation` of the halves of `linear(x, weight, bias)`: x `[..., K]`, weight `[2 I, K]`, the gate's first.

`[..., K] -> [..., I]`. A kernel need not round the projections to their dtype before the activation.
"""

residual_linear = CanonicalOp(
    "residual_linear(Tensor x, Tensor weight, Tensor residual) -> Tensor", _residual_linear, _fake
)
"""`linear(x, weight) + residual`, both terms `[..., N]`: `[..., K] -> [..., N]`.

A kernel need not round the projection to its dtype before the sum.
"""
