"""The language of patterns: operator calls with holes, optional casts and alternatives.

An expression is a frozen value. The same one is matched against graph nodes, built into a graph, and evaluated on real
tensors, so that a pattern can be tested against its replacement.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from autodeploy.graph.nodes import call_arguments

aten = torch.ops.aten

COMMUTATIVE = frozenset({aten.add.Tensor, aten.mul.Tensor})
"""Operators whose first two operands match in either order."""


class Expr:
    """A node of a pattern; arithmetic on expressions makes calls of the aten operators."""

    def __add__(self, other: object) -> Call:
        return Call(aten.add.Tensor, (self, other))

    def __radd__(self, other: object) -> Call:
        return Call(aten.add.Tensor, (self, other))

    def __sub__(self, other: object) -> Call:
        return Call(aten.sub.Tensor, (self, other))

    def __mul__(self, other: object) -> Call:
        return Call(aten.mul.Tensor, (self, other))

    def __rmul__(self, other: object) -> Call:
        return Call(aten.mul.Tensor, (self, other))

    def __truediv__(self, other: object) -> Call:
        return Call(aten.div.Tensor, (self, other))

    def __neg__(self) -> Call:
        return Call(aten.neg.default, (self,))


@dataclass(frozen=True)
class Var(Expr):
    """A hole: it binds a node or a constant, the same one wherever its name occurs."""

    name: str


@dataclass(frozen=True)
class Call(Expr):
    """A call of `target`; arguments are expressions, constants, or lists of them."""

    target: Any
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Cast(Expr):
    """A conversion to the dtype bound by `dtype`, which the graph leaves out where it would change nothing."""

    x: Expr
    dtype: Var


@dataclass(frozen=True)
class Maybe(Expr):
    """A call that the graph may leave out: `present`, or else `absent` in its place."""

    present: Expr
    absent: Expr


@dataclass(frozen=True)
class AnyOf(Expr):
    """Any one of several ways to write the same thing; building and evaluating use the first."""

    choices: tuple[Expr, ...]


@dataclass(frozen=True)
class Outputs(Expr):
    """Several results of one pattern, each used by others."""

    parts: tuple[Expr, ...]

    @property
    def first(self) -> int:
        """Which part matching begins at: the one that most is computed for."""
        return max(range(len(self.parts)), key=lambda index: num_calls(self.parts[index]))


@dataclass(frozen=True)
class Computed(Expr):
    """A constant of a replacement, computed from what holes are bound to: nodes of a graph, tensors, or constants."""

    function: Callable[..., Any]
    args: tuple[Expr, ...]


def cast(x: Expr, dtype: Var) -> Cast:
    """`x` converted to a dtype, or `x` itself where it already has it."""
    return Cast(x, dtype)


def getitem(x: Expr, index: int) -> Call:
    """One result of an operator that returns several."""
    return Call(operator.getitem, (x, index))


def holes_of(expression: object) -> Iterator[str]:
    """The names of the holes in an expression, those of its dtypes included."""
    match expression:
        case Var(name):
            yield name
        case Cast(x, dtype):
            yield from holes_of([x, dtype])
        case Maybe(present, absent):
            yield from holes_of([present, absent])
        case AnyOf(parts) | Outputs(parts) | Call(_, parts) | Computed(_, parts):
            yield from holes_of(parts)
        case list() | tuple():
            for item in expression:
                yield from holes_of(item)


def num_calls(expression: object) -> int:
    """How many calls the shortest way to write an expression has."""
    match expression:
        case Cast(x, _):
            return num_calls(x)
        case Maybe(present, absent):
            return min(num_calls(present), num_calls(absent))
        case AnyOf(choices):
            return min(map(num_calls, choices))
        case Outputs(parts):
            return max(map(num_calls, parts))
        case Call(_, args):
            return 1 + num_calls(args)
        case list() | tuple():
            return sum(map(num_calls, expression))
        case _:
            return 0


def evaluate(expression: object, bindings: Mapping[str, Any]) -> Any:
    """Compute `expression` on the values that `bindings` gives to its holes; raises KeyError for one it lacks.

    Several outputs come as a list.
    """
    match expression:
        case Var(name):
            return bindings[name]
        case Cast(x, dtype):
            return evaluate(x, bindings).to(bindings[dtype.name])
        case Maybe(present, _):
            return evaluate(present, bindings)
        case AnyOf(choices):
            return evaluate(choices[0], bindings)
        case Call(target, args):
            positional, keywords = call_arguments(target, [evaluate(argument, bindings) for argument in args])
            return target(*positional, **keywords)
        case Computed(function, args):
            return function(*(evaluate(argument, bindings) for argument in args))
        case Outputs(items) | list(items) | tuple(items):
            return [evaluate(item, bindings) for item in items]
        case _:
            return expression
