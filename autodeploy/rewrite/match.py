"""Whether a rule applies at a node, and why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from autodeploy.graph.nodes import is_call
from autodeploy.rewrite.expression import Expr, Outputs, Var
from autodeploy.rewrite.place import Miss
from autodeploy.rewrite.rule import Rule
from autodeploy.rewrite.search import Search
from autodeploy.rewrite.writes import Writes

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
    """A place where a rule applies: what its holes are bound to, and the nodes that its pattern covers.

    `outputs` are the nodes whose results the replacement takes over, of which `root` is one.
    """

    root: Node
    bindings: Mapping[str, Any]
    interior: frozenset[Node]
    outputs: tuple[Node, ...]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.bindings[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def inputs(self) -> list[Node]:
        """The nodes that the holes are bound to, those in lists included."""
        return list(_nodes_in(list(self.bindings.values())))

    @property
    def begin(self) -> Node:
        """The node before which the replacement goes: the first output, or what first uses one if inputs come late."""
        first = min(self.outputs)
        if all(node < first for node in self.inputs):
            return first
        users = (user for output in self.outputs for user in output.users if user not in self.interior)
        return min(users, default=self.root)


@dataclass(frozen=True)
class Failure:
    """How far a rule got at a node where it does not apply."""

    root: Node
    search: Search

    def looked_right(self, rule: Rule) -> bool:
        """Whether the whole pattern was there, or more than its root and at least half of it."""
        depth = len(self.search.state.covered)
        return self.search.complete or (depth > 1 and 2 * depth >= rule.sizes[self.root.target])

    def miss(self, rule: Rule) -> Miss:
        """The failure in names, which outlive the graph."""
        found = self.search
        matched = found.state.covered
        return Miss.after(rule.name, self.root, found.node, found.reason, matched, complete=found.complete)


def match_rule(rule: Rule, root: Node) -> Match | Miss:
    """Match `rule` with its pattern's root at `root`: a Match that nothing declines, or the furthest Miss."""
    found = attempt(rule, root, Writes(root.graph))
    return found.miss(rule) if isinstance(found, Failure) else found


def attempt(rule: Rule, root: Node, writes: Writes) -> Match | Failure:
    """Match `rule` at `root` in a graph with `writes`, which the caller may use again."""
    search = Search(root)
    for state, outputs in search.outputs(rule.pattern, root):
        match = Match(root, state.bindings, state.covered, outputs)
        declined = _declined(rule, match, writes)
        if declined is None:
            return match
        search.fail(state, *declined, complete=True)
    return Failure(root, search)


def _declined(rule: Rule, match: Match, writes: Writes) -> tuple[Node, str] | None:
    """The node at which a whole pattern is declined, and the reason."""
    return (
        _used_outside(match)
        or _out_of_order(match)
        or writes.between(match.interior, match.inputs)
        or _constant_result(rule, match)
        or _by_guard(rule, match)
    )


def _used_outside(match: Match) -> tuple[Node, str] | None:
    """An interior node that something else needs too, the replacement included, and that computes something."""
    for node in sorted(match.interior.difference(match.outputs)):
        if is_call(node, *_FREE):
            continue
        if not match.interior.issuperset(node.users):
            return node, f"{node} is also used outside the pattern"
        if node in match.inputs:
            return node, f"{node} is inside the pattern and also bound to a hole of it"
    return None


def _out_of_order(match: Match) -> tuple[Node, str] | None:
    """An input that is not there yet where the first output is needed."""
    begin = match.begin
    late = [node for node in match.inputs if not node < begin]
    return (late[0], f"{late[0]} is computed only after {begin}, which uses an output") if late else None


def _constant_result(rule: Rule, match: Match) -> tuple[Node, str] | None:
    """A hole that is replaced by a number."""
    for result in results_of(rule.replacement):
        if isinstance(result, Var) and not isinstance(match.bindings[result.name], Node):
            return match.root, f"hole {result.name!r} is {match.bindings[result.name]!r}, not a tensor"
    return None


def _by_guard(rule: Rule, match: Match) -> tuple[Node, str] | None:
    if rule.where is None:
        return None
    reason = rule.where(match)
    return None if reason is None else (match.root, reason)


def results_of(expression: Expr) -> tuple[Expr, ...]:
    """The outputs of a pattern or replacement."""
    return expression.parts if isinstance(expression, Outputs) else (expression,)


def _nodes_in(argument: object) -> Iterator[Node]:
    match argument:
        case Node():
            yield argument
        case list() | tuple():
            for item in argument:
                yield from _nodes_in(item)
