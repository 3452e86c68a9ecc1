"""A projection by a weight matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


linear = CanonicalOp("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", _reference, _fake)
"""`x [..., K] @ weight [N, K].T + bias [N] -> [..., N]`, all of one dtype."""
