"""Pointwise activations, plain and gated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from autodeploy.ops.op import CanonicalOp


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _gelu_quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _relu_squared(x: Tensor) -> Tensor:
    return functional.relu(x).square()


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": _gelu_tanh,
        "gelu_quick": _gelu_quick,
        "relu": functional.relu,
        "relu_squared": _relu_squared,
        "sigmoid": torch.sigmoid,
    }
)
"""The names that `activate` and `gated_activation` take."""


def _activate(x: Tensor, kind: str) -> Tensor:
    return ACTIVATIONS[kind](x)


def _gated_activation(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    return ACTIVATIONS[kind](gate) * up


activate = CanonicalOp(
    "activate(Tensor x, str kind) -> Tensor",
    _activate,
    lambda x, kind: torch.empty_like(x, memory_format=torch.contiguous_format),
)
"""The activation named `kind` of every element of x."""

gated_activation = CanonicalOp(
    "gated_activation(Tensor gate, Tensor up, str kind) -> Tensor",
    _gated_activation,
    lambda gate, up, kind: torch.empty_like(gate, memory_format=torch.contiguous_format),
)
"""`kind(gate) * up`, both `[..., I]` and possibly strided halves of one tensor (Shazeer, 2020)."""
