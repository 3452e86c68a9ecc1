"""Matching an expression against a graph node, with backtracking, and remembering where it failed."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from autodeploy.graph.nodes import arguments, is_call
from autodeploy.rewrite.expression import COMMUTATIVE, AnyOf, Call, Cast, Maybe, Var
from autodeploy.rewrite.rule import Rule

_CASTS = (torch.ops.aten.to.dtype,)
# Interior nodes that may stay behind for other users: they compute nothing, so keeping them costs nothing.
_FREE = (
    torch.ops.aten.to.dtype,
    torch.ops.aten.unsqueeze.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.slice.Tensor,
)


@dataclass(frozen=True)
class Match:
    """A place where a rule applies: what its holes are bound to, and the nodes that its pattern covers."""

    root: Node
    bindings: Mapping[str, Any]
    interior: frozenset[Node]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.bindings[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Miss:
    """Why a rule did not apply at a root that looked right: the node where matching stopped, and the reason."""

    rule: str
    root: str
    node: str
    reason: str
    depth: int
    """How many nodes had matched by then."""

    def __str__(self) -> str:
        return f"{self.rule} at {self.root}: stopped at {self.node}: {self.reason}"


@dataclass(frozen=True)
class _State:
    """A partial match: bindings so far and nodes covered so far."""

    bindings: Mapping[str, Any] = field(default_factory=dict)
    covered: frozenset[Node] = frozenset()

    def bind(self, name: str, value: Any) -> _State:
        return _State({**self.bindings, name: value}, self.covered)

    def cover(self, node: Node) -> _State:
        return _State(self.bindings, self.covered | {node})


class _Search:
    """One attempt at a root; keeps the failure that got furthest into the pattern."""

    def __init__(self) -> None:
        self.furthest = -1
        self.node = ""
        self.reason = ""

    def fail(self, state: _State, at: object, reason: str) -> None:
        if len(state.covered) > self.furthest:
            self.furthest, self.node, self.reason = len(state.covered), str(at), reason

    def match(self, expression: Any, value: Any, state: _State) -> Iterator[_State]:
        """Every way in which `expression` matches `value`, given what is already bound."""
        match expression:
            case Var(name):
                yield from self.match_hole(name, value, state)
            case Cast():
                yield from self.match_cast(expression, value, state)
            case Maybe(present, absent):
                yield from self.match(present, value, state)
                yield from self.match(absent, value, state)
            case AnyOf(choices):
                for choice in choices:
                    yield from self.match(choice, value, state)
            case Call():
                yield from self.match_call(expression, value, state)
            case list() | tuple():
                yield from self.match_list(expression, value, state)
            case _:
                yield from self.match_constant(expression, value, state)

    def match_hole(self, name: str, value: Any, state: _State) -> Iterator[_State]:
        if name not in state.bindings:
            yield state.bind(name, value)
        elif _same(state.bindings[name], value):
            yield state
        else:
            self.fail(state, value, f"hole {name!r} is already bound to {state.bindings[name]}")

    def match_cast(self, expression: Cast, value: Any, state: _State) -> Iterator[_State]:
        if not isinstance(value, Node):
            self.fail(state, value, "a constant where a tensor was expected")
            return
        if is_call(value, *_CASTS):
            for bound in self.match_hole(expression.dtype.name, value.args[1], state.cover(value)):
                yield from self.match(expression.x, value.args[0], bound)
        dtype = getattr(value.meta.get("val"), "dtype", None)
        for bound in self.match_hole(expression.dtype.name, dtype, state):
            yield from self.match(expression.x, value, bound)

    def match_call(self, expression: Call, value: Any, state: _State) -> Iterator[_State]:
        if not is_call(value, expression.target):
            self.fail(state, value, f"expected {_name(expression.target)}, found {_describe(value)}")
            return
        actual = list(value.args) if expression.target is operator.getitem else list(arguments(value).values())
        covered = state.cover(value)
        given = len(expression.args)
        if actual[given:] != _defaults(expression.target)[given:]:
            self.fail(covered, value, f"arguments {actual[given:]} are not the operator's defaults")
            return
        yield from self.match_arguments(expression.args, actual, covered)
        if expression.target in COMMUTATIVE:
            first, second, *rest = expression.args
            yield from self.match_arguments((second, first, *rest), actual, covered)

    def match_arguments(self, expected: tuple[Any, ...], actual: list[Any], state: _State) -> Iterator[_State]:
        """Match one after the other; `actual` may hold more, which the caller has checked."""
        if not expected:
            yield state
            return
        for matched in self.match(expected[0], actual[0], state):
            yield from self.match_arguments(expected[1:], actual[1:], matched)

    def match_list(self, expression: Any, value: Any, state: _State) -> Iterator[_State]:
        if isinstance(value, (list, tuple)) and len(value) == len(expression):
            yield from self.match_arguments(tuple(expression), list(value), state)
        else:
            self.fail(state, value, f"expected {len(expression)} items, found {value}")

    def match_constant(self, expected: Any, value: Any, state: _State) -> Iterator[_State]:
        if _same(expected, value):
            yield state
        else:
            self.fail(state, value, f"expected {expected!r}, found {value!r}")


def match_rule(rule: Rule, root: Node) -> Match | Miss:
    """Match `rule` with its pattern's root at `root`: a Match that its guard accepts, or the furthest Miss."""
    search = _Search()
    for state in search.match(rule.pattern, root, _State()):
        match = Match(root, state.bindings, state.covered)
        shared = _used_outside(match)
        reason = rule.where(match) if rule.where is not None and shared is None else None
        if shared is not None:
            search.fail(state, shared, f"{shared} is also used outside the pattern")
        elif reason is not None:
            search.fail(state, root, reason)
        else:
            return match
    return Miss(rule.name, root.name, search.node, search.reason, search.furthest)


def _used_outside(match: Match) -> Node | None:
    """An interior node that something else needs too, and that computes something."""
    for node in match.interior - {match.root}:
        if not is_call(node, *_FREE) and not match.interior.issuperset(node.users):
            return node
    return None


def _defaults(target: Any) -> list[Any]:
    """The default of each argument; an argument without one equals no value."""
    if not isinstance(target, torch._ops.OpOverload):
        return []
    return [parameter.default_value if parameter.has_default_value() else ... for parameter in target._schema.arguments]


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Node) or isinstance(right, Node):
        return left is right
    return (type(left) is type(right) and bool(left == right)) or _equal_numbers(left, right)


def _equal_numbers(left: Any, right: Any) -> bool:
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in (left, right)):
        return False
    return bool(abs(left - right) <= 1e-12 * max(abs(left), abs(right)))


def _name(target: object) -> str:
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def _describe(value: object) -> str:
    if not isinstance(value, Node):
        return repr(value)
    return _name(value.target) if value.op == "call_function" else f"{value.op} {value.target}"
