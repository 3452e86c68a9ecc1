"""Expressions that move elements and change none: slice, concatenate, stack, permute, reshape, expand."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from typing_extensions import override

from autodeploy.weights.expression import Box, Expression, Unary, extent, whole
from autodeploy.weights.source import TensorSource


@dataclass(frozen=True)
class Slice(Unary):
    """Elements `start` to `stop` of `x` along `dim`."""

    dim: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        _check_dim(self.dim, len(self.x.shape))
        if not 0 <= self.start < self.stop <= self.x.shape[self.dim]:
            raise ValueError(f"range {self.start}:{self.stop} is outside dimension {self.dim} of {self.x.shape}")

    @property
    @override
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return _replace(self.x.shape, self.dim, self.stop - self.start)

    @override
    def read(self, source: TensorSource, box: Box | None = None) -> Tensor:
        return self.x.read(source, self._inner(box or whole(self.shape)))

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        self.x.write(source, self._inner(box), out)

    def _inner(self, box: Box) -> Box:
        low, high = box[self.dim]
        return _with_range(box, self.dim, (low + self.start, high + self.start))


@dataclass(frozen=True)
class Joined(Expression):
    """Several tensors of one dtype as one."""

    parts: tuple[Expression, ...]
    dim: int

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype of the parts."""
        return self.parts[0].dtype

    @property
    @override
    def operands(self) -> tuple[Expression, ...]:
        return self.parts


@dataclass(frozen=True)
class Concat(Joined):
    """`parts` one after the other along `dim`; all of one dtype."""

    def __post_init__(self) -> None:
        _check_dim(self.dim, len(self.parts[0].shape))
        _check_alike("concatenate", [(_replace(part.shape, self.dim, 0), part.dtype) for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of a part, as long along `dim` as all together."""
        return _replace(self.parts[0].shape, self.dim, sum(part.shape[self.dim] for part in self.parts))

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        low, high = box[self.dim]
        offset = 0
        for part in self.parts:
            start, stop = max(low, offset), min(high, offset + part.shape[self.dim])
            if start < stop:
                inner = _with_range(box, self.dim, (start - offset, stop - offset))
                part.write(source, inner, out.narrow(self.dim, start - low, stop - start))
            offset += part.shape[self.dim]


@dataclass(frozen=True)
class Stack(Joined):
    """`parts`, all of one shape and dtype, along a new dimension `dim`."""

    def __post_init__(self) -> None:
        _check_dim(self.dim, len(self.parts[0].shape) + 1)
        _check_alike("stack", [(part.shape, part.dtype) for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of a part, with the number of parts inserted at `dim`."""
        shape = self.parts[0].shape
        return (*shape[: self.dim], len(self.parts), *shape[self.dim :])

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        low, high = box[self.dim]
        inner = (*box[: self.dim], *box[self.dim + 1 :])
        for index in range(low, high):
            self.parts[index].write(source, inner, out.select(self.dim, index - low))


@dataclass(frozen=True)
class Permute(Unary):
    """`x` with its dimensions in the order `dims`."""

    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.dims) != list(range(len(self.x.shape))):
            raise ValueError(f"{self.dims} is no order of the dimensions of {self.x.shape}")

    @property
    @override
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.x.shape[dim] for dim in self.dims)

    @override
    def read(self, source: TensorSource, box: Box | None = None) -> Tensor:
        return self.x.read(source, self._inner(box or whole(self.shape))).permute(self.dims)

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        self.x.write(source, self._inner(box), out.permute(self._inverse()))

    def _inverse(self) -> tuple[int, ...]:
        return tuple(self.dims.index(dim) for dim in range(len(self.dims)))

    def _inner(self, box: Box) -> Box:
        return tuple(box[position] for position in self._inverse())


@dataclass(frozen=True)
class Reshape(Unary):
    """The elements of `x` in row-major order, in another shape."""

    to: tuple[int, ...]

    def __post_init__(self) -> None:
        if prod(self.to) != prod(self.x.shape):
            raise ValueError(f"{self.x.shape} cannot be reshaped to {self.to}")

    @property
    @override
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.to

    def read(self, source: TensorSource, box: Box | None = None) -> Tensor:
        """Read the fewest leading rows of `x` that hold the box."""
        if box is None or box == whole(self.to):
            return self.x.read(source).reshape(self.to)
        strides = tuple(prod(self.to[dim + 1 :]) for dim in range(len(self.to)))
        first = sum(low * stride for (low, _), stride in zip(box, strides, strict=True))
        last = sum((high - 1) * stride for (_, high), stride in zip(box, strides, strict=True))
        row = prod(self.x.shape[1:])
        rows = (first // row, last // row + 1)
        flat = self.x.read(source, (rows, *whole(self.x.shape[1:]))).reshape(-1).contiguous()
        return flat[first - rows[0] * row :].as_strided(extent(box), strides)

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        out.copy_(self.read(source, box))


@dataclass(frozen=True)
class Expand(Unary):
    """`x` repeated along its dimensions of size 1, to the shape `to`."""

    to: tuple[int, ...]

    def __post_init__(self) -> None:
        torch.empty(self.x.shape, device="meta").expand(self.to)  # raises for a shape that does not fit

    @property
    @override
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.to

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        out.copy_(self.x.read(source).expand(self.to)[tuple(slice(*one) for one in box)])


def transpose(x: Expression, dim0: int = 0, dim1: int = 1) -> Permute:
    """`x` with two dimensions swapped."""
    dims = list(range(len(x.shape)))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return Permute(x, tuple(dims))


def chunk(x: Expression, num_chunks: int, dim: int) -> tuple[Slice, ...]:
    """`x` in equal pieces along `dim`; ValueError when they would not be equal."""
    size, rest = divmod(x.shape[dim], num_chunks)
    if rest:
        raise ValueError(f"dimension {dim} of {x.shape} does not divide into {num_chunks}")
    return tuple(Slice(x, dim, i * size, (i + 1) * size) for i in range(num_chunks))


def _check_dim(dim: int, num_dims: int) -> None:
    if not 0 <= dim < num_dims:
        raise ValueError(f"dimension {dim} is not one of 0 to {num_dims - 1}")


def _check_alike(verb: str, kinds: list[tuple[tuple[int, ...], torch.dtype]]) -> None:
    different = next((kind for kind in kinds if kind != kinds[0]), None)
    if different is not None:
        raise ValueError(f"cannot {verb} tensors of unlike shape or dtype: {kinds[0]} and {different}")


def _replace(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])


def _with_range(box: Box, dim: int, part: tuple[int, int]) -> Box:
    return (*box[:dim], part, *box[dim + 1 :])
