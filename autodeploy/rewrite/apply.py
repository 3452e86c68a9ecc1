"""Applying rules to a graph until none matches."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from autodeploy.graph.nodes import call_arguments, insert_call
from autodeploy.graph.origin import inherit_origin
from autodeploy.rewrite.expression import AnyOf, Call, Cast, Computed, Expr, Maybe, Var
from autodeploy.rewrite.match import Match, attempt, results_of
from autodeploy.rewrite.place import Miss, Place
from autodeploy.rewrite.rule import Rule
from autodeploy.rewrite.writes import Writes

_TO = torch.ops.aten.to.dtype


@dataclass(frozen=True)
class RewriteResult:
    """Where each rule applied, and why it did not at the roots that looked right."""

    rules: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    misses: tuple[Miss, ...] = ()

    @property
    def applied(self) -> Counter[str]:
        """How often each rule applied, without those that did not."""
        return Counter(place.rule for place in self.places)

    @property
    def total(self) -> int:
        """The number of rewrites."""
        return len(self.places)


@dataclass
class _Record:
    """What happened so far, from the end of the graph to its beginning."""

    places: list[Place] = field(default_factory=list)
    misses: list[Miss] = field(default_factory=list)
    stops: dict[tuple[str, str, str], Miss] = field(default_factory=dict)

    def add(self, outcome: Place | Miss) -> None:
        """Keep an outcome, except for a miss that another root of the rule met before, on its way to this one."""
        if isinstance(outcome, Place):
            self.places.append(outcome)
            return
        before = self.stops.setdefault((outcome.rule, outcome.node, outcome.reason), outcome)
        if outcome.root not in before.matched or outcome is before:
            self.misses.append(outcome)

    def result(self, rules: Sequence[Rule], graph: Graph) -> RewriteResult:
        """Everything in graph order; a root that another rule rewrote is no miss."""
        present = {node.name for node in graph.nodes}
        misses = [miss for miss in reversed(self.misses) if miss.root in present]
        return RewriteResult(tuple(rule.name for rule in rules), tuple(reversed(self.places)), tuple(misses))


def apply_rules(gm: GraphModule, rules: Sequence[Rule], spend: Callable[[], bool]) -> RewriteResult:
    """Rewrite every match of `rules`, from the end of the graph; earlier rules win where several match at a node.

    From the end, so that a match that ends in a cast is found before the part of it that does without. It is one
    sweep, in which no node that a rewrite inserts is a root: it ends whatever the rules are.

    `spend` is asked before each rewrite and returns False when no more are allowed. Nodes that a rewrite leaves
    without users are erased at once, so that they block no later match.
    """
    by_root: defaultdict[object, list[Rule]] = defaultdict(list)
    for rule in rules:
        for root in rule.roots:
            by_root[root].append(rule)
    record, writes = _Record(), Writes(gm.graph)
    for node in reversed(list(gm.graph.nodes)):
        if node.op != "call_function" or node._erased:
            continue
        for rule in by_root.get(node.target, ()):
            outcome = _rewrite(gm.graph, rule, node, writes, spend)
            if outcome is not None:
                record.add(outcome)
            if isinstance(outcome, Place):
                break
    return record.result(rules, gm.graph)


def _rewrite(graph: Graph, rule: Rule, root: Node, writes: Writes, spend: Callable[[], bool]) -> Place | Miss | None:
    """Apply a rule at `root`; a miss where it looked right, None where it did not or no more rewrites are allowed."""
    found = attempt(rule, root, writes)
    if not isinstance(found, Match):
        return found.miss(rule) if found.looked_right(rule) else None
    with graph.inserting_before(found.begin):
        results = _Builder(graph, found).results(rule)
    reason = next(filter(None, map(_difference, found.outputs, results)), None)
    if reason is not None or not spend():
        for new in results:
            erase_unused(new)
        return None if reason is None else Miss.at(rule.name, root, root, reason)
    place = Place.of(rule.name, root)
    for old, new in zip(found.outputs, results, strict=True):
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in found.interior)
    for old in reversed(found.outputs):
        if not old._erased:
            erase_unused(old)
    return place


def _difference(old: Node, new: Node) -> str | None:
    """What the replacement changes about a result besides how it is computed; a size that varies is taken on trust."""
    before, after = old.meta["val"], new.meta["val"]
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return None if type(before) is type(after) else "the replacement is no tensor"
    sizes = zip(before.shape, after.shape, strict=False)
    resized = any(one != other for one, other in sizes if isinstance(one, int) and isinstance(other, int))
    if before.dtype == after.dtype and before.dim() == after.dim() and not resized:
        return None
    return f"the replacement is {_kind(after)}, not {_kind(before)}"


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


class _Builder:
    """Inserts the replacement of a match at the graph's insertion point; what occurs twice in it is computed once."""

    def __init__(self, graph: Graph, match: Match) -> None:
        self._graph = graph
        self._match = match
        self._built: dict[int, Node] = {}

    def results(self, rule: Rule) -> list[Node]:
        """The nodes of all outputs."""
        results = [self.build(result) for result in results_of(rule.replacement)]
        for node in self._built.values():
            node.meta["rule"] = rule.name
            inherit_origin(node, self._match.root)
        return results

    def build(self, expression: Any) -> Any:
        """The node or constant of an expression."""
        match expression:
            case Var(name):
                return self._match.bindings[name]
            case Cast(x, dtype):
                return self._call(expression, Call(_TO, (x, dtype)))
            case Maybe(present, _):
                return self.build(present)
            case AnyOf(choices):
                return self.build(choices[0])
            case Call():
                return self._call(expression, expression)
            case Computed(function, args):
                return function(*map(self.build, args))
            case list() | tuple():
                return [self.build(item) for item in expression]
            case _:
                return expression

    def _call(self, key: Expr, call: Call) -> Node:
        if id(key) not in self._built:
            arguments = call_arguments(call.target, [self.build(item) for item in call.args])
            self._built[id(key)] = insert_call(self._graph, call.target, *arguments)
        return self._built[id(key)]


def erase_unused(node: Node) -> None:
    """Erase `node` and then what only it used; placeholders and mutating calls stay.

    A call that may draw random numbers goes too, such as PyTorch's attention, whose dropout is off.
    """
    if node.users or node.is_impure(impure_random=False) or node.op in ("placeholder", "output"):
        return
    inputs = node.all_input_nodes
    node.graph.erase_node(node)
    for parent in inputs:
        if not parent._erased:
            erase_unused(parent)
