"""Lazy arithmetic for folding one layer into another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from autodeploy.weights.expression import Binary, Box, Cast, Expression, Multiply, Unary
from autodeploy.weights.layout import Reshape
from autodeploy.weights.source import TensorSource


@dataclass(frozen=True)
class Subtract(Binary):
    """`left - right`."""

    @staticmethod
    def _compute(left: Tensor, right: Tensor) -> Tensor:
        return left - right


@dataclass(frozen=True)
class InverseRoot(Unary):
    """`1 / sqrt(x + eps)` of every element, in the dtype of `x`."""

    eps: float

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        out.copy_(torch.rsqrt(self.x.read(source, box) + self.eps))


def scale_rows(x: Expression, scale: Expression) -> Expression:
    """`x [N, ...]` with row n multiplied by `scale[n]`, rounded once, to the dtype of x.

    Raises ValueError when there is not one scale for each row.
    """
    if scale.shape != x.shape[:1]:
        raise ValueError(f"{scale.shape} is not a number for each row of {x.shape}")
    column = Reshape(scale, (*scale.shape, *(1 for _ in x.shape[1:])))
    return Cast(Multiply(x, column), x.dtype)
