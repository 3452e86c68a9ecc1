"""Folding a graph by module and by repeated layer, into what views show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, groupby

from torch.fx import Graph, Node

from autodeploy.inspect.describe import NO_COSTS, Costs, Describer
from autodeploy.inspect.kinds import Kind, kind_of
from autodeploy.inspect.model import INPUTS, Flow, GraphView, Group, Operation
from autodeploy.inspect.repeats import Layer, Slot, Stack, find_repeats
from autodeploy.inspect.units import Path, Unit, inputs_of, is_part, owner, units_of

Member = Group | Operation


def fold_graph(graph: Graph, title: str, costs: Costs = NO_COSTS, device: str = "") -> GraphView:
    """Fold a graph: calls of one module into a group, alike layers that follow each other into one.

    Nodes that only take results apart belong to the call that gives them; sizes stand with the inputs, and checks that
    give nothing are left out. `device` is where the graph runs.
    """
    return _Folder(graph, Describer(graph, costs, device)).view(title)


class _Folder:
    """Folds one graph."""

    def __init__(self, graph: Graph, describer: Describer) -> None:
        self._graph, self._describer = graph, describer
        self._numbers = count()
        self._place: dict[Node, str] = {}
        """The operation that stands for each node."""
        self._rounds: dict[Node, dict[str, int]] = {}
        """Which repetition of each stack a node belongs to."""

    def view(self, title: str) -> GraphView:
        units = [unit for unit in units_of(self._graph) if not _is_check(unit.node)]
        calls = [unit for unit in units if kind_of(unit.node) is not Kind.SIZE]
        sizes = [unit for unit in units if kind_of(unit.node) is Kind.SIZE]
        layers = {unit.layer for unit in calls if unit.layer}
        above = frozenset(layer[:end] for layer in layers for end in range(1, len(layer)))
        found = find_repeats(calls, self._describer.labels)
        root = Group("root", title, "", (*self._inputs(sizes), *self._members(found, above)))
        return GraphView(title, root, tuple(self._flows(calls)), len(self._graph.nodes))

    def _inputs(self, sizes: Sequence[Unit]) -> list[Member]:
        """A group of the inputs and sizes; inputs that differ in the number of a layer alone are one."""
        alike: dict[tuple[str, str], list[Node]] = {}
        for node in self._graph.find_nodes(op="placeholder"):
            stem = re.sub(r"\d+$", "*", node.name)
            alike.setdefault((stem, self._describer.anonymous_type(node)), []).append(node)
        inputs: list[Member] = [
            self._operation([(node,) for node in nodes], (), stem if len(nodes) > 1 else nodes[0].name)
            for (stem, _), nodes in alike.items()
        ]
        inputs += [self._operation([unit.nodes], (), unit.node.name) for unit in sizes]
        return [Group(self._id("g"), INPUTS, "", tuple(inputs))] if len(inputs) > 1 else inputs

    def _members(self, found: Iterable[Slot | Layer | Stack], above: frozenset[Path]) -> list[Member]:
        """What stands on one level: slots outside of layers, and layers. `above` are paths that layers lie in."""
        members: list[Member] = []
        for loose, run in groupby(found, key=lambda one: isinstance(one, Slot)):
            if loose:
                members += self._nest([one for one in run if isinstance(one, Slot)], (), above)
            else:
                members += [self._repeated(one) for one in run if not isinstance(one, Slot)]
        return members

    def _repeated(self, found: Layer | Stack) -> Group:
        identity, numbers = self._id("g"), found.numbers
        if isinstance(found, Layer):
            path = found.slots[0].units[0].layer
            children = self._nest(found.slots, path, frozenset())
            return Group(identity, name_layers(numbers), ".".join(path), tuple(children), 1, numbers)
        for turn, units in enumerate(found.rounds):
            for node in (node for unit in units for node in unit.nodes):
                self._rounds.setdefault(node, {})[identity] = turn
        path, first = found.rounds[0][0].layer, found.members[0]
        if len(found.members) == 1 and isinstance(first, Layer):
            children = self._nest(first.slots, path, frozenset())
        else:
            children = self._members(found.members, frozenset())
        module = ".".join((*path[:-1], "*"))
        return Group(identity, name_layers(numbers), module, tuple(children), found.count, numbers)

    def _nest(self, slots: Sequence[Slot], inside: Path, above: frozenset[Path]) -> list[Member]:
        """Group slots that follow each other by the next part of their modules' paths after `inside`."""
        members: list[Member] = []
        for path, run in groupby(slots, key=lambda slot: _below(slot.units[0].path, inside, above)):
            alike = list(run)
            if path == inside or len(alike) == 1:
                members += [self._slot(slot, inside) for slot in alike]
                continue
            identity = self._id("g")
            children = self._nest(alike, path, above)
            only = children[0]
            if len(children) == 1 and isinstance(only, Group):
                members.append(Group(only.id, f"{path[-1]}.{only.label}", only.module, only.children))
            else:
                members.append(Group(identity, path[-1], ".".join(path), tuple(children)))
        return members

    def _slot(self, slot: Slot, inside: Path) -> Operation:
        path = slot.units[0].path
        label = path[-1] if path[: len(inside)] != path and path else ""
        return self._operation([unit.nodes for unit in slot.units], path, label)

    def _operation(self, calls: Sequence[tuple[Node, ...]], module: Path, label: str) -> Operation:
        """What stands for alike calls, each with its parts."""
        identity = self._id("n")
        for one in (one for call in calls for one in call):
            self._place[one] = identity
        return self._describer.operation(identity, [call[0] for call in calls], module, label)

    def _flows(self, calls: Sequence[Unit]) -> Iterator[Flow]:
        seen: set[tuple[str, str, object, bool]] = set()
        for unit in calls:
            for value in inputs_of(unit.node):
                source = owner(value)
                if kind_of(source) is Kind.SIZE:
                    continue
                flow = Flow(self._place[source], self._place[unit.node], value.name, self._carried(source, unit.node))
                key = (flow.source, flow.target, value.args[1] if is_part(value) else None, flow.carried)
                if key not in seen:
                    seen.add(key)
                    yield flow

    def _carried(self, source: Node, target: Node) -> bool:
        """Whether a value goes from one repetition of a stack to another."""
        turns, others = self._rounds.get(source, {}), self._rounds.get(target, {})
        return any(others.get(stack, turn) != turn for stack, turn in turns.items())

    def _id(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"


def name_layers(numbers: Sequence[str]) -> str:
    """`layer 3`, `layers 0-79`, or `layers 0, 1, 3, … 76` where some are left out."""
    first, last = int(numbers[0]), int(numbers[-1])
    if first == last:
        return f"layer {first}"
    if last - first == len(numbers) - 1:
        return f"layers {first}-{last}"
    named = numbers if len(numbers) < 5 else (*numbers[:3], f"… {last}")
    return f"layers {', '.join(named)}"


def _is_check(node: Node) -> bool:
    """Whether a call gives nothing that another could use."""
    return node.op == "call_function" and not node.users and node.meta.get("val", node.meta.get("val_text")) is None


def _below(path: Path, inside: Path, above: frozenset[Path]) -> Path:
    """The group that a module at `path` belongs to, one below `inside`; paths that layers lie in are no groups."""
    end = len(inside) + 1
    while path[:end] in above and end <= len(path):
        end += 1
    return inside if path in above or path[: len(inside)] != inside else path[:end]
