"""Convolutions over one to three dimensions, alone or with the activation that follows them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodeploy.ops.activation import ACTIVATIONS
from autodeploy.ops.op import CanonicalOp

_ARGUMENTS = "Tensor x, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, int groups"


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)


def _convolution_activation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    kind: str,
) -> Tensor:
    return ACTIVATIONS[kind](_convolution(x, weight, bias, stride, padding, dilation, groups))


convolution = CanonicalOp(f"convolution({_ARGUMENTS}) -> Tensor", _convolution, _convolution)
"""Convolve `x [B, C, *size]` with `weight [N, C / groups, *kernel]` and add `bias [N]` -> `[B, N, *size]`, one dtype.

`stride`, `padding` (zeros on both sides) and `dilation` have a number for each of the one to three dimensions of size,
as `torch.nn.functional.conv2d` takes them.
"""

convolution_activation = CanonicalOp(
    f"convolution_activation({_ARGUMENTS}, str kind) -> Tensor", _convolution_activation, _convolution_activation
)
"""`activate(convolution(x, ...), kind)`; a kernel need not round in between."""
