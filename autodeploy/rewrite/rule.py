"""A rewrite rule: a pattern, what replaces it, and when it declines."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from autodeploy.rewrite.expression import AnyOf, Call, Cast, Expr, Maybe, Outputs, Var, getitem, holes_of, num_calls

if TYPE_CHECKING:
    from autodeploy.rewrite.match import Match

Written = Expr | tuple[Expr, ...]
"""What the function of a pattern returns: its output, or its outputs."""
Guard = Callable[["Match"], str | None]
"""Returns None to accept a match, or the reason it declines."""


@dataclass(frozen=True)
class Rule:
    """Rewrites `pattern` to `replacement`; both are expressions over the same holes, with as many outputs."""

    name: str
    doc: str
    holes: tuple[str, ...]
    pattern: Expr
    replacement: Expr
    where: Guard | None = None

    @cached_property
    def roots(self) -> tuple[object, ...]:
        """The operators at which a match can begin."""
        return tuple(self.sizes)

    @cached_property
    def sizes(self) -> Mapping[object, int]:
        """For each operator at which a match can begin, the calls of the shortest form that begins there."""
        sizes: dict[object, int] = {}
        for target, size in root_sizes(self.pattern):
            sizes[target] = min(size, sizes.get(target, size))
        return MappingProxyType(sizes)


def root_sizes(expression: object) -> list[tuple[object, int]]:
    """The operators that an expression can begin with, each with the number of calls of that form."""
    match expression:
        case Call(target, _):
            return [(target, num_calls(expression))]
        case Cast(x, _):
            return [(torch.ops.aten.to.dtype, num_calls(x)), *root_sizes(x)]
        case Maybe(present, absent):
            return root_sizes(present) + root_sizes(absent)
        case AnyOf(choices):
            return [root for choice in choices for root in root_sizes(choice)]
        case Outputs(parts):
            return root_sizes(parts[expression.first])
        case _:
            raise TypeError(f"a pattern must begin with an operator, not with {expression!r}")


def rewrite(
    replacement: torch._ops.OpOverload | Callable[..., Written], *, where: Guard | None = None, **constants: object
) -> Callable[[Callable[..., Written]], Rule]:
    """Declare a pattern: the decorated function's parameters are the holes, its result is the expression to find.

    `replacement` is an operator, called with the holes whose names its schema has and with `constants`, or a function
    of the holes that returns an expression. A tuple of expressions is a pattern of several outputs. Raises TypeError
    when the pattern does not contain a hole, when neither the replacement nor a guard uses one, when the replacement
    wants an argument that no hole gives, or when the numbers of outputs differ.
    """

    def declare(pattern: Callable[..., Written]) -> Rule:
        holes = tuple(inspect.signature(pattern).parameters)
        expression = _joined(pattern(*map(Var, holes)))
        unbound = set(holes) - set(holes_of(expression))
        if unbound:
            raise TypeError(f"the pattern {pattern.__name__} does not contain its hole {min(unbound)!r}")
        if isinstance(replacement, torch._ops.OpOverload):
            built: Expr = _results(_call_of(replacement, holes, constants), num_outputs(expression))
        else:
            built = _joined(replacement(*map(Var, inspect.signature(replacement).parameters)))
        if num_outputs(built) != num_outputs(expression):
            raise TypeError(f"{pattern.__name__} and its replacement differ in their number of outputs")
        unknown = set(holes_of(built)) - set(holes)
        if unknown:
            raise TypeError(f"the replacement of {pattern.__name__} has {min(unknown)!r}, which is no hole of it")
        unused = set(holes) - set(holes_of(built))
        if unused and where is None:
            raise TypeError(f"the hole {min(unused)!r} of {pattern.__name__} is used by no replacement and no guard")
        return Rule(pattern.__name__, inspect.getdoc(pattern) or "", holes, expression, built, where)

    return declare


def _joined(written: Written) -> Expr:
    return Outputs(written) if isinstance(written, tuple) else written


def _results(call: Call, count: int) -> Expr:
    """The results of an operator that returns `count` tensors."""
    return call if count == 1 else Outputs(tuple(getitem(call, index) for index in range(count)))


def num_outputs(expression: Expr) -> int:
    """How many results a pattern or replacement has."""
    return len(expression.parts) if isinstance(expression, Outputs) else 1


def _call_of(target: torch._ops.OpOverload, holes: tuple[str, ...], constants: dict[str, object]) -> Call:
    """A call of `target` whose arguments are the holes and constants of the same names."""
    parameters = target._schema.arguments
    names = {parameter.name for parameter in parameters}
    strange = set(constants) - names
    if strange:
        raise TypeError(f"{target} has no argument {strange.pop()!r}")
    args: list[object] = []
    for parameter in parameters:
        if parameter.name in constants:
            args.append(constants[parameter.name])
        elif parameter.name in holes:
            args.append(Var(parameter.name))
        elif parameter.has_default_value():
            args.append(parameter.default_value)
        else:
            raise TypeError(f"{target} needs {parameter.name!r}, which is no hole of the pattern")
    return Call(target, tuple(args))
