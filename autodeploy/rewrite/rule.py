"""A rewrite rule: a pattern, what replaces it, and when it declines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from autodeploy.rewrite.expression import AnyOf, Call, Cast, Expr, Maybe, Var, holes_of

if TYPE_CHECKING:
    from autodeploy.rewrite.match import Match

Guard = Callable[["Match"], str | None]
"""Returns None to accept a match, or the reason it declines."""


@dataclass(frozen=True)
class Rule:
    """Rewrites `pattern` to `replacement`; both are expressions over the same holes."""

    name: str
    doc: str
    holes: tuple[str, ...]
    pattern: Expr
    replacement: Expr
    where: Guard | None = None

    @property
    def roots(self) -> tuple[object, ...]:
        """The operators at which a match can begin."""
        return tuple(dict.fromkeys(_roots(self.pattern)))


def _roots(expression: Expr) -> list[object]:
    match expression:
        case Call(target, _):
            return [target]
        case Cast(x, _):
            return [torch.ops.aten.to.dtype, *_roots(x)]
        case Maybe(present, absent):
            return _roots(present) + _roots(absent)
        case AnyOf(choices):
            return [root for choice in choices for root in _roots(choice)]
        case _:
            raise TypeError(f"a pattern must begin with an operator, not with {expression!r}")


def rewrite(
    replacement: torch._ops.OpOverload | Callable[..., Expr], *, where: Guard | None = None, **constants: object
) -> Callable[[Callable[..., Expr]], Rule]:
    """Declare a pattern: the decorated function's parameters are the holes, its result is the expression to find.

    `replacement` is an operator, called with the holes whose names its schema has and with `constants`, or a function
    of the holes that returns an expression. Raises TypeError when the pattern does not contain a hole, when neither the
    replacement nor a guard uses one, or when the replacement wants an argument that no hole gives.
    """

    def declare(pattern: Callable[..., Expr]) -> Rule:
        holes = tuple(inspect.signature(pattern).parameters)
        expression = pattern(*map(Var, holes))
        unbound = set(holes) - set(holes_of(expression))
        if unbound:
            raise TypeError(f"the pattern {pattern.__name__} does not contain its hole {min(unbound)!r}")
        if isinstance(replacement, torch._ops.OpOverload):
            built: Expr = _call_of(replacement, holes, constants)
        else:
            built = replacement(*map(Var, inspect.signature(replacement).parameters))
        unknown = set(holes_of(built)) - set(holes)
        if unknown:
            raise TypeError(f"the replacement of {pattern.__name__} has {min(unknown)!r}, which is no hole of it")
        unused = set(holes) - set(holes_of(built))
        if unused and where is None:
            raise TypeError(f"the hole {min(unused)!r} of {pattern.__name__} is used by no replacement and no guard")
        return Rule(pattern.__name__, inspect.getdoc(pattern) or "", holes, expression, built, where)

    return declare


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
