"""Lazy changes of how integers of few bits are packed; the numbers stay what they are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from autodeploy.quantization.nibbles import pack_nibbles
from autodeploy.weights.expression import Box, Constant, Expression
from autodeploy.weights.source import TensorSource, select

WORD = 32
IN_TURN = tuple(range(8))
"""The order of codes in a word: code i of it is column `order[i]` of those it holds."""


class Repacked(Expression):
    """A tensor made anew of the whole of `x`; a part of it is cut from that."""

    x: Expression

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape that making it gives."""
        return tuple(self._outline.shape)

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype that making it gives."""
        return self._outline.dtype

    @cached_property
    def _outline(self) -> Tensor:
        """It, without data."""
        return self._compute(torch.empty(self.x.shape, dtype=self.x.dtype, device="meta"))

    @property
    @override
    def operands(self) -> tuple[Expression, ...]:
        return (self.x,)

    @override
    def read(self, source: TensorSource, box: Box | None = None) -> Tensor:
        return select(self._compute(self.x.read(source)), box)

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        out.copy_(self.read(source, box))

    @abstractmethod
    def _compute(self, x: Tensor) -> Tensor:
        """The whole tensor."""


@dataclass(frozen=True)
class Bytes(Repacked):
    """The bytes `[N, 4 W]` of words `x [N, W]`, uint8, the lowest of each first."""

    x: Expression

    @override
    def _compute(self, x: Tensor) -> Tensor:
        return x.contiguous().view(torch.uint8)


@dataclass(frozen=True)
class Codes(Repacked):
    """The codes of `bits` each in words `x`, int32, along `dim`, as uint8."""

    x: Expression
    bits: int
    dim: int
    order: tuple[int, ...] = IN_TURN

    @override
    def _compute(self, x: Tensor) -> Tensor:
        each = WORD // self.bits
        codes = x.new_empty((*x.shape[: self.dim + 1], each, *x.shape[self.dim + 1 :]), dtype=torch.uint8)
        for place, column in enumerate(self.order[:each]):
            codes.select(self.dim + 1, column).copy_((x >> (self.bits * place)) & (2**self.bits - 1))
        return codes.flatten(self.dim, self.dim + 1)


@dataclass(frozen=True)
class Pairs(Repacked):
    """Codes `x [N, K]` of 4 bits, two a byte: `[N, K / 2]`, uint8."""

    x: Expression

    @override
    def _compute(self, x: Tensor) -> Tensor:
        return pack_nibbles(x)


@dataclass(frozen=True)
class RowsApart(Repacked):
    """Codes `[2 N, K]` from bytes `x [N, K]` of two rows each, the first in the low half; -8 to 7 become 0 to 15."""

    x: Expression

    @override
    def _compute(self, x: Tensor) -> Tensor:
        return torch.stack((x & 15, x >> 4), dim=1).flatten(0, 1) ^ 8


@dataclass(frozen=True)
class Centred(Repacked):
    """Codes `x` 0 to 255 less 128, as int8."""

    x: Expression

    @override
    def _compute(self, x: Tensor) -> Tensor:
        return (x ^ 128).view(torch.int8)


@dataclass(frozen=True)
class Raised(Repacked):
    """Zero points `x` plus `by`, as uint8."""

    x: Expression
    by: int

    @override
    def _compute(self, x: Tensor) -> Tensor:
        return (x + self.by).to(torch.uint8)


@dataclass(frozen=True)
class Columns(Repacked):
    """The columns `which [J]` of `x [N, K]`, in that order; some may come twice."""

    x: Expression
    which: Constant

    @override
    def _compute(self, x: Tensor) -> Tensor:
        return x[:, self.which.tensor]
