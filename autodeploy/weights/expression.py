"""Lazy weights: what a parameter is, in terms of checkpoint tensors, without reading any of them.

Every expression is a frozen value with a `shape` and a `dtype`. `read` gives its tensor, or a box of it, and pushes the
box down to the checkpoint, so that a rank reads only the bytes it keeps. `write` fills memory that the caller owns, so
that joining tensors needs no second copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from typing_extensions import override

from autodeploy.weights.source import TensorSource, select

Box = tuple[tuple[int, int], ...]
"""A half-open range for every dimension."""


class Expression(ABC):
    """A tensor that has not been read. `shape` and `dtype` say what reading it gives."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        """Fill `out`, which has the box's shape and any strides, with the part inside `box`.

        A different dtype of `out` rounds once, from this expression's dtype.
        """

    def read(self, source: TensorSource, box: Box | None = None) -> Tensor:
        """Read the tensor, or the part inside `box`. It may be a view of mapped memory: do not write to it.

        Raises CheckpointError when `source` lacks a tensor.
        """
        box = box or whole(self.shape)
        out = torch.empty(extent(box), dtype=self.dtype)
        self.write(source, box, out)
        return out

    @property
    def nbytes(self) -> int:
        """The size in memory, in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def operands(self) -> tuple[Expression, ...]:
        """The expressions that this one is made of."""
        return ()

    def leaves(self) -> Iterator[Stored | Constant]:
        """Every checkpoint tensor and constant that this is made of, with repeats."""
        for operand in self.operands:
            yield from operand.leaves()


def whole(shape: tuple[int, ...]) -> Box:
    """The box that holds all of a tensor."""
    return tuple((0, size) for size in shape)


def extent(box: Box) -> tuple[int, ...]:
    """The shape of a box."""
    return tuple(stop - start for start, stop in box)


@dataclass(frozen=True)
class Stored(Expression):
    """A tensor of the checkpoint."""

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, key: str, source: TensorSource) -> Stored:
        """The tensor `key` of `source`; CheckpointError when there is none."""
        return cls(key, source.shape(key), source.dtype(key))

    def read(self, source: TensorSource, box: Box | None = None) -> Tensor:
        """Read without a copy, where `source` maps its files."""
        partial = box is not None and box != whole(self.shape)
        return source.read(self.key, box if partial else None)

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        out.copy_(self.read(source, box))

    @override
    def leaves(self) -> Iterator[Stored | Constant]:
        yield self


@dataclass(frozen=True, eq=False)
class Constant(Expression):
    """A small tensor that the model computes and no checkpoint holds, such as `inv_freq`."""

    name: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The tensor's shape."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The tensor's dtype."""
        return self.tensor.dtype

    @override
    def read(self, source: TensorSource, box: Box | None = None) -> Tensor:
        return select(self.tensor, box)

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        out.copy_(select(self.tensor, box))

    @override
    def leaves(self) -> Iterator[Stored | Constant]:
        yield self


@dataclass(frozen=True)
class Unary(Expression):
    """What is made of one tensor `x`: of its shape and dtype, unless a kind says otherwise."""

    x: Expression

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of the result."""
        return self.x.shape

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype of the result."""
        return self.x.dtype

    @property
    @override
    def operands(self) -> tuple[Expression, ...]:
        return (self.x,)


@dataclass(frozen=True)
class Cast(Unary):
    """`x` rounded to another dtype."""

    to: torch.dtype

    @property
    @override
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.to

    @override
    def read(self, source: TensorSource, box: Box | None = None) -> Tensor:
        return self.x.read(source, box) if self.x.dtype == self.to else super().read(source, box)

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        if out.dtype == self.to:
            self.x.write(source, box, out)
        else:  # two roundings: the one of this cast must happen
            out.copy_(self.read(source, box))


@dataclass(frozen=True)
class Binary(Expression):
    """An element-wise operation of two tensors, with PyTorch's broadcasting and promotion."""

    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        _broadcast(self.left.shape, self.right.shape)

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The broadcast shape."""
        return _broadcast(self.left.shape, self.right.shape)

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The promoted dtype."""
        return torch.promote_types(self.left.dtype, self.right.dtype)

    @property
    @override
    def operands(self) -> tuple[Expression, ...]:
        return (self.left, self.right)

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        left, right = (operand.read(source, _unbroadcast(box, operand.shape)) for operand in self.operands)
        out.copy_(self._compute(left, right))

    @staticmethod
    def _compute(left: Tensor, right: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Add(Binary):
    """`left + right`."""

    @staticmethod
    def _compute(left: Tensor, right: Tensor) -> Tensor:
        return left + right


@dataclass(frozen=True)
class Multiply(Binary):
    """`left * right`."""

    @staticmethod
    def _compute(left: Tensor, right: Tensor) -> Tensor:
        return left * right


def _broadcast(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(torch.empty(left, device="meta").add(torch.empty(right, device="meta")).shape)


def _unbroadcast(box: Box, shape: tuple[int, ...]) -> Box:
    """The part of an operand of `shape` that the part `box` of the result needs."""
    aligned = box[len(box) - len(shape) :]
    return tuple((0, 1) if size == 1 else part for part, size in zip(aligned, shape, strict=True))
