"""What views say of one operator."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from torch.fx import Graph, Node

from autodeploy.graph.labels import Labels
from autodeploy.graph.origin import source_line
from autodeploy.graph.text import call_name
from autodeploy.inspect.kinds import kind_of
from autodeploy.inspect.model import Operation, OperatorCost
from autodeploy.inspect.units import Path, inputs_of

Costs = Mapping[str, OperatorCost]
"""What the calls of a graph cost, by the names of their nodes; those that cost nothing may be left out."""

NO_COSTS: Costs = MappingProxyType({})


class Describer:
    """Describes the operators of one graph, which runs on `device`."""

    def __init__(self, graph: Graph, costs: Costs, device: str) -> None:
        self.labels = Labels(graph)
        self._costs, self._device = costs, device

    def operation(self, identity: str, nodes: Sequence[Node], module: Path, label: str) -> Operation:
        """What stands for calls that are alike; the first is described."""
        node = nodes[0]
        weights = [one for one in node.all_input_nodes if one.op == "get_attr"]
        return Operation(
            id=identity,
            names=tuple(one.name for one in nodes),
            operator=call_name(node.target) if node.op == "call_function" else node.op,
            kind=kind_of(node),
            label=label,
            text=self._line(node),
            results=tuple(_types(self.labels.result(node))) if node.op != "output" else (),
            module=".".join(module),
            source=source_line(node) or "",
            weights=tuple(self.labels.argument(one, {}) for one in weights),
            weight_bytes=sum(one.meta["val"].numel() * one.meta["val"].itemsize for one in weights),
            backend=str(node.meta.get("backend", "")),
            device=self._device,
            cost=self._costs.get(node.name),
        )

    def anonymous_type(self, node: Node) -> str:
        """The type of a result without the symbols that each input has of its own."""
        return re.sub(r"\bs\d+\b", "s", self.labels.result(node))

    def _line(self, node: Node) -> str:
        names = {one: one.name for one in (node, *inputs_of(node))}
        return self.labels.line(node, names)


def _types(text: str) -> list[str]:
    """The types in `f32[1, 2], f32[3]`."""
    return [found.strip() for found in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)]
