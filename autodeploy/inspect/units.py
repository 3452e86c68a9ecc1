"""The calls of a graph as units that belong to modules, in an order that keeps each module together."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch.fx import Graph, Node

from autodeploy.graph.layers import find_layers
from autodeploy.graph.origin import module_path

Path = tuple[str, ...]
_NO_MODULE = "_empty_nn_module_stack"  # what PyTorch writes for nodes of its own


@dataclass(frozen=True, eq=False)
class Unit:
    """A call, with the nodes that only take its results apart, and the path of its module."""

    index: int
    node: Node
    parts: tuple[Node, ...]
    path: Path

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The call and its parts."""
        return (self.node, *self.parts)

    @property
    def layer(self) -> Path:
        """The path of its layer, `("model", "layers", "3")`; empty outside of layers."""
        numbered = next((at for at, part in enumerate(self.path) if part.isdigit()), None)
        return () if numbered is None else self.path[: numbered + 1]


def units_of(graph: Graph) -> list[Unit]:
    """The calls and the output of a graph, so ordered that a module's calls follow each other where they can.

    The order is one in which the graph could run. Layers without module paths are found by their structure.
    """
    nodes = [node for node in graph.nodes if node.op in ("call_function", "output") and not is_part(node)]
    paths = _spread(nodes, {node: _own_path(node) for node in nodes})
    units = [Unit(at, node, _parts(node), paths[node]) for at, node in enumerate(nodes)]
    if not any(unit.layer for unit in units):
        units = _with_found_layers(graph, units)
    return list(_ordered(units))


def is_part(node: Node) -> bool:
    """Whether a node takes one result out of several."""
    return node.target is operator.getitem and isinstance(node.args[0], Node)


def inputs_of(node: Node) -> list[Node]:
    """The nodes that a call takes values of, weights left out."""
    return [one for one in node.all_input_nodes if one.op != "get_attr"]


def owner(node: Node) -> Node:
    """The call that computes what `node` may only take out."""
    while is_part(node):
        node = node.all_input_nodes[0]
    return node


def _parts(node: Node) -> tuple[Node, ...]:
    taken = [user for user in node.users if is_part(user)]
    return tuple(sorted(taken, key=lambda one: str(one.args[1])))


def _own_path(node: Node) -> Path:
    """The module whose weight a call reads, which rewrites keep right, or else the one that it was traced in."""
    weights = [str(one.target).rpartition(".")[0] for one in node.all_input_nodes if one.op == "get_attr"]
    path = next(filter(None, weights), None) or module_path(node) or ""
    return () if not path or path.startswith(_NO_MODULE) else tuple(path.split("."))


def _spread(nodes: Sequence[Node], paths: dict[Node, Path]) -> dict[Node, Path]:
    """Give calls that no module is known of the one of their first user, or else of their first input."""
    for node in reversed(nodes):
        if node.op == "call_function" and not paths[node]:
            users = (user for one in (node, *_parts(node)) for user in one.users)
            paths[node] = _first_known(users, paths)
    for node in nodes:
        if node.op == "call_function" and not paths[node]:
            paths[node] = _first_known(map(owner, inputs_of(node)), paths)
    return paths


def _first_known(nodes: Iterable[Node], paths: dict[Node, Path]) -> Path:
    return next((paths[one] for one in nodes if paths.get(one)), ())


def _with_found_layers(graph: Graph, units: list[Unit]) -> list[Unit]:
    layers = find_layers(graph)
    if not any(one.op == "get_attr" for node in next(iter(layers.stretches), ()) for one in node.all_input_nodes):
        return units  # calls that are alike, and no layer: a layer has weights
    number = {node: str(at) for at, stretch in enumerate(layers.stretches) for node in stretch}
    return [
        replace(unit, path=("layers", number[unit.node], *unit.path)) if unit.node in number else unit for unit in units
    ]


def _ordered(units: Sequence[Unit]) -> Iterator[Unit]:
    """A topological order that stays in the module it is in for as long as something of it is ready."""
    by_node = {unit.node: unit for unit in units}
    needs = {unit: {by_node[one] for one in map(owner, inputs_of(unit.node)) if one in by_node} for unit in units}
    users: dict[Unit, list[Unit]] = {unit: [] for unit in units}
    for unit, sources in needs.items():
        for source in sources:
            users[source].append(unit)
    missing = {unit: len(sources) for unit, sources in needs.items()}
    ready = [unit for unit in units if not missing[unit]]
    here: Path = ()
    while ready:
        path = here
        unit = min(ready, key=lambda one: (-_shared(one.path, path), one.index))
        ready.remove(unit)
        here = unit.path
        yield unit
        for user in users[unit]:
            missing[user] -= 1
            if not missing[user]:
                ready.append(user)


def _shared(one: Path, other: Path) -> int:
    """How many parts two paths begin with alike."""
    shared = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        shared += 1
    return shared
