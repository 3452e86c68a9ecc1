"""Matching an expression against graph nodes, with backtracking, and remembering what got furthest."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.fx import Node

from autodeploy.graph.nodes import arguments, is_call
from autodeploy.rewrite.expression import COMMUTATIVE, AnyOf, Call, Cast, Expr, Maybe, Outputs, Var
from autodeploy.rewrite.rule import root_sizes

_CASTS = (torch.ops.aten.to.dtype,)


@dataclass(frozen=True)
class State:
    """A partial match: what is bound, which nodes are covered, and the node whose arguments are being matched."""

    bindings: Mapping[str, Any] = field(default_factory=dict)
    covered: frozenset[Node] = frozenset()

    def bind(self, name: str, value: Any) -> State:
        """The state with one more hole bound."""
        return State({**self.bindings, name: value}, self.covered)

    def cover(self, node: Node) -> State:
        """The state with one more node covered."""
        return State(self.bindings, self.covered | {node})


class Search:
    """One attempt of a pattern at a root; keeps the failure that got furthest, or that met the whole pattern."""

    def __init__(self, root: Node) -> None:
        self.state = State()
        self.node = root
        self.reason = ""
        self.complete = False

    def fail(self, state: State, at: Node, reason: str, *, complete: bool = False) -> None:
        """Note that matching stopped at the node `at`, with the whole pattern there if `complete`."""
        further = len(state.covered) > len(self.state.covered) or not self.reason
        if (complete and not self.complete) or (complete == self.complete and further):
            self.state, self.node, self.reason, self.complete = state, at, reason, complete

    def outputs(self, pattern: Expr, root: Node) -> Iterator[tuple[State, tuple[Node, ...]]]:
        """Every way in which a pattern matches at `root`, and the nodes of all its outputs."""
        parts, first = (pattern.parts, pattern.first) if isinstance(pattern, Outputs) else ((pattern,), 0)
        for state in self.match(parts[first], root, State(), root):
            for others, before in self._others(parts[:first], state, {root}):
                for rest, after in self._others(parts[first + 1 :], others, {root, *before}):
                    yield rest, (*before, root, *after)

    def _others(
        self, parts: Sequence[Expr], state: State, taken: Set[Node]
    ) -> Iterator[tuple[State, tuple[Node, ...]]]:
        """Match further outputs at nodes of the match itself or near what is bound."""
        if not parts:
            yield state, ()
            return
        sizes = dict(root_sizes(parts[0]))
        for node in _nearby(state, max(sizes.values())):
            if node in taken or node.target not in sizes:
                continue
            for matched in self.match(parts[0], node, state, node):
                for rest, nodes in self._others(parts[1:], matched, {*taken, node}):
                    yield rest, (node, *nodes)

    def match(self, expression: Any, value: Any, state: State, user: Node) -> Iterator[State]:
        """Every way in which `expression` matches `value`, an argument of `user`, given what is already bound."""
        match expression:
            case Var(name):
                yield from self._hole(name, value, state, user)
            case Cast():
                yield from self._cast(expression, value, state, user)
            case Maybe(present, absent):
                yield from self.match(present, value, state, user)
                yield from self.match(absent, value, state, user)
            case AnyOf(choices):
                for choice in choices:
                    yield from self.match(choice, value, state, user)
            case Call():
                yield from self._call(expression, value, state, user)
            case list() | tuple():
                yield from self._list(expression, value, state, user)
            case _:
                yield from self._constant(expression, value, state, user)

    def _hole(self, name: str, value: Any, state: State, user: Node) -> Iterator[State]:
        if name not in state.bindings:
            yield state.bind(name, value)
        elif _same(state.bindings[name], value):
            yield state
        else:
            self.fail(state, _node(value, user), f"hole {name!r} is already bound to {state.bindings[name]}")

    def _cast(self, expression: Cast, value: Any, state: State, user: Node) -> Iterator[State]:
        if not isinstance(value, Node):
            self.fail(state, user, f"{value!r} is a constant where a tensor was expected")
            return
        if is_call(value, *_CASTS):
            for bound in self._hole(expression.dtype.name, value.args[1], state.cover(value), user):
                yield from self.match(expression.x, value.args[0], bound, value)
        dtype = getattr(value.meta.get("val"), "dtype", None)
        for bound in self._hole(expression.dtype.name, dtype, state, value):
            yield from self.match(expression.x, value, bound, user)

    def _call(self, expression: Call, value: Any, state: State, user: Node) -> Iterator[State]:
        if not is_call(value, expression.target):
            found = f"expected {_name(expression.target)}, found {_describe(value)}"
            self.fail(state, _node(value, user), found)
            return
        actual = list(value.args) if expression.target is operator.getitem else list(arguments(value).values())
        covered = state.cover(value)
        given = len(expression.args)
        if actual[given:] != _defaults(expression.target)[given:]:
            self.fail(covered, value, f"arguments {actual[given:]} are not the operator's defaults")
            return
        yield from self._arguments(expression.args, actual, covered, value)
        if expression.target in COMMUTATIVE:
            first, second, *rest = expression.args
            yield from self._arguments((second, first, *rest), actual, covered, value)

    def _arguments(self, expected: Sequence[Any], actual: Sequence[Any], state: State, user: Node) -> Iterator[State]:
        """Match one after the other; `actual` may hold more, which the caller has checked."""
        if not expected:
            yield state
            return
        for matched in self.match(expected[0], actual[0], state, user):
            yield from self._arguments(expected[1:], actual[1:], matched, user)

    def _list(self, expression: Sequence[Any], value: Any, state: State, user: Node) -> Iterator[State]:
        if isinstance(value, (list, tuple)) and len(value) == len(expression):
            yield from self._arguments(expression, value, state, user)
        else:
            self.fail(state, _node(value, user), f"expected {len(expression)} items, found {value}")

    def _constant(self, expected: Any, value: Any, state: State, user: Node) -> Iterator[State]:
        if _same(expected, value):
            yield state
        else:
            self.fail(state, _node(value, user), f"expected {expected!r}, found {value!r}")


def _nearby(state: State, steps: int) -> list[Node]:
    """The nodes that a match covers, and those that `steps` calls may compute from them or from what it binds."""
    bound = {one for one in state.bindings.values() if isinstance(one, Node)}
    frontier, found = bound | state.covered, set(state.covered)
    for _ in range(steps):
        frontier = {user for node in frontier for user in node.users} - found
        found |= frontier
    return [*sorted(state.covered), *sorted(found - state.covered)]


def _node(value: object, user: Node) -> Node:
    """The node to name when `value`, an argument of `user`, is not what was expected."""
    return value if isinstance(value, Node) else user


@cache
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
