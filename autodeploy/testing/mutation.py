"""Mutants of a rule: small mistakes in its replacement, which a check of the rule must notice."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch

from autodeploy.graph.text import operator_name
from autodeploy.ops import ACTIVATIONS
from autodeploy.rewrite import AnyOf, Call, Cast, Computed, Expr, Maybe, Outputs, Rule, Var
from autodeploy.rewrite.expression import COMMUTATIVE
from autodeploy.testing.patterns import check_pattern
from autodeploy.testing.samples import Sampler, parameters_of, sample_inputs

_KINDS = tuple(ACTIVATIONS)
# What a check raises: its own finding, or what an operator says to an argument that it cannot take.
_NOTICED = (AssertionError, RuntimeError, TypeError, ValueError, IndexError, KeyError, UserWarning)


@dataclass(frozen=True)
class Mutant:
    """A rule whose replacement has one mistake, and what it is, such as `rms_norm.eps x 10`."""

    name: str
    rule: Rule


def mutants(rule: Rule) -> Iterator[Mutant]:
    """Every mutant of `rule`, each under a name of its own.

    Numbers change, flags flip, an activation becomes another, casts and calls vanish, optional operands are dropped,
    two tensors change places, and a hole is taken for another.
    """
    holes = [name for name, kind in _types(rule.replacement) if kind == "Tensor"]
    seen: Counter[str] = Counter()
    for name, replacement in _changes(rule.replacement, tuple(dict.fromkeys(holes))):
        seen[name] += 1
        unique = name if seen[name] == 1 else f"{name} ({seen[name]})"
        yield Mutant(unique, replace(rule, replacement=replacement))


def surviving_mutants(rule: Rule, inputs: Sampler | None = None, **options: Any) -> list[str]:
    """The names of the mutants of `rule` that `check_pattern` accepts, given the same options."""
    sample = inputs or sample_inputs(rule)
    return [mutant.name for mutant in mutants(rule) if _survives(mutant.rule, sample, options)]


def _survives(rule: Rule, inputs: Sampler, options: dict[str, Any]) -> bool:
    try:
        check_pattern(rule, inputs, **options)
    except _NOTICED:
        return False
    return True


def _types(expression: object, kind: str = "Tensor") -> Iterator[tuple[str, str]]:
    """Each hole of an expression, with the type of the argument that it is."""
    match expression:
        case Var(name):
            yield name, kind
        case Call(target, args):
            for (_, own), argument in zip(parameters_of(target, len(args)), args, strict=True):
                yield from _types(argument, own)
        case Cast(x, _) | Maybe(x, _):
            yield from _types(x)
        case AnyOf(items) | Outputs(items) | list(items) | tuple(items):
            for item in items:
                yield from _types(item, kind)


def _changes(expression: Any, holes: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each way to get one thing wrong in what an expression builds."""
    match expression:
        case Call(target, args):
            yield from _swapped(target, args)
            for index, (name, kind) in enumerate(parameters_of(target, len(args))):
                path = f"{operator_name(target)}.{name}"
                for change, value in _argument_changes(path, target, index, kind, args[index], holes):
                    yield change, Call(target, (*args[:index], value, *args[index + 1 :]))
            if args and isinstance(args[0], (Var, Call, Cast)):
                yield f"{operator_name(target)} left out", args[0]
        case Cast(x, dtype):
            yield "cast left out", x
            yield from ((name, Cast(changed, dtype)) for name, changed in _changes(x, holes))
        case Maybe(x, _):
            yield from _changes(x, holes)
        case AnyOf(choices):
            yield from _changes(choices[0], holes)
        case Outputs(items):
            yield "outputs reversed", Outputs(items[::-1])
            for index, item in enumerate(items):
                for name, changed in _changes(item, holes):
                    yield name, Outputs((*items[:index], changed, *items[index + 1 :]))


def _swapped(target: Any, args: Sequence[Any]) -> Iterator[tuple[str, Call]]:
    """The call with two of its tensors in each other's place, where that makes a difference."""
    named = parameters_of(target, len(args))
    places = [index for index, (_, kind) in enumerate(named) if kind == "Tensor" and args[index] is not None]
    for left, right in combinations(places, 2) if target not in COMMUTATIVE else ():
        swapped = list(args)
        swapped[left], swapped[right] = args[right], args[left]
        yield f"{operator_name(target)}: {named[left][0]} <-> {named[right][0]}", Call(target, tuple(swapped))


def _argument_changes(
    path: str, target: Any, index: int, kind: str, value: Any, holes: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    if value is not None and _is_optional(target, index):
        yield f"{path} dropped", None
    match value:
        case Var(name) if kind == "Tensor":
            yield from ((f"{path} = {other}", Var(other)) for other in holes if other != name)
        case Var() | Computed():
            yield from _variable_changes(path, kind, value)
        case Call() | Cast() | Maybe() | AnyOf():
            yield from _changes(value, holes)
        case list() | tuple():
            for place, item in enumerate(value):
                for change, other in _argument_changes(f"{path}[{place}]", None, 0, kind, item, holes):
                    yield change, [*value[:place], other, *value[place + 1 :]]
        case _:
            yield from _constant_changes(path, value)


def _variable_changes(path: str, kind: str, value: Expr) -> Iterator[tuple[str, Any]]:
    """What is bound when the rule matches, changed by a call that only evaluating knows."""
    if kind in ("float", "number"):
        yield f"{path} x 10", Call(operator.mul, (value, 10))
    elif kind == "int":
        yield f"{path} + 1", Call(operator.add, (value, 1))
    elif kind == "bool":
        yield f"{path} flipped", Call(operator.not_, (value,))
    elif kind == "str":
        yield f"{path} another", Call(_next_kind, (value,))


def _constant_changes(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, bool):
        yield f"{path} flipped", not value
    elif isinstance(value, int):
        yield f"{path} {value} -> {value + 1}", value + 1
    elif isinstance(value, float):
        changed = {0.0: 1.0, 1.0: 0.0}.get(value, value * 10)
        yield f"{path} {value:g} -> {changed:g}", changed
    elif value in _KINDS:
        yield from ((f"{path} {value} -> {other}", other) for other in _KINDS if other != value)


def _next_kind(kind: str) -> str:
    return _KINDS[(_KINDS.index(kind) + 1) % len(_KINDS)]


def _is_optional(target: Any, index: int) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return str(target._schema.arguments[index].type).startswith("Optional")
