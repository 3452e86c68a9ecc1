"""A projection by a weight matrix, alone or with the activation that follows it."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.activation import ACTIVATIONS
from autodeploy.ops.op import CanonicalOp


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def _linear_activation(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    return ACTIVATIONS[kind](_reference(x, weight, bias))


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
