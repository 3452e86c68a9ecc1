"""Applying rules to a graph until none matches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from autodeploy.graph.nodes import call_arguments, insert_call
from autodeploy.rewrite.expression import AnyOf, Call, Cast, Maybe, Var
from autodeploy.rewrite.match import Match, Miss, match_rule
from autodeploy.rewrite.rule import Rule

_LOOKED_RIGHT = 3  # nodes that must have matched for a miss to be worth explaining
_TO = torch.ops.aten.to.dtype


@dataclass(frozen=True)
class RewriteResult:
    """How often each rule applied, and why it did not at the roots that looked right."""

    applied: Counter[str] = field(default_factory=Counter)
    misses: tuple[Miss, ...] = ()

    @property
    def total(self) -> int:
        """The number of rewrites."""
        return self.applied.total()


def apply_rules(gm: GraphModule, rules: Sequence[Rule], spend: Callable[[], bool]) -> RewriteResult:
    """Rewrite every match of `rules`, from the end of the graph; earlier rules win where several match at a node.

    From the end, so that a match that ends in a cast is found before the part of it that does without.

    `spend` is asked before each rewrite and returns False when no more are allowed. Nodes that a rewrite leaves
    without users are erased at once, so that they block no later match.
    """
    by_root: defaultdict[object, list[Rule]] = defaultdict(list)
    for rule in rules:
        for root in rule.roots:
            by_root[root].append(rule)
    applied: Counter[str] = Counter()
    misses: dict[tuple[str, str], Miss] = {}
    for node in reversed(list(gm.graph.nodes)):
        if node.op != "call_function" or node._erased:
            continue
        for rule in by_root.get(node.target, ()):
            found = match_rule(rule, node)
            if isinstance(found, Miss):
                if found.depth >= _LOOKED_RIGHT:
                    misses[rule.name, node.name] = found
                continue
            if not spend():
                return RewriteResult(applied, tuple(misses.values()))
            _replace(gm.graph, rule, found)
            applied[rule.name] += 1
            break
    rewritten = {root for _, root in misses} - {node.name for node in gm.graph.nodes}
    return RewriteResult(applied, tuple(miss for miss in misses.values() if miss.root not in rewritten))


def _replace(graph: Graph, rule: Rule, match: Match) -> None:
    with graph.inserting_before(match.root):
        new = build(graph, rule.replacement, match.bindings)
    assert isinstance(new, Node), f"{rule.name} must be replaced by an operator's result"
    new.meta.setdefault("stack_trace", match.root.meta.get("stack_trace", ""))
    new.meta["rule"] = rule.name
    match.root.replace_all_uses_with(new)
    erase_unused(match.root)


def build(graph: Graph, expression: Any, bindings: Any) -> Any:
    """Insert the calls of `expression` at the graph's insertion point and return the last one's node."""
    match expression:
        case Var(name):
            return bindings[name]
        case Cast(x, dtype):
            return build(graph, Call(_TO, (x, dtype)), bindings)
        case Maybe(present, _):
            return build(graph, present, bindings)
        case AnyOf(choices):
            return build(graph, choices[0], bindings)
        case Call(target, args):
            return insert_call(graph, target, *call_arguments(target, [build(graph, item, bindings) for item in args]))
        case list() | tuple():
            return [build(graph, item, bindings) for item in expression]
        case _:
            return expression


def erase_unused(node: Node) -> None:
    """Erase `node` and then what only it used; placeholders and mutating calls stay."""
    if node.users or node.is_impure() or node.op in ("placeholder", "output"):
        return
    inputs = node.all_input_nodes
    node.graph.erase_node(node)
    for parent in inputs:
        if not parent._erased:
            erase_unused(parent)
