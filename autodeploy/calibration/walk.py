"""Running a graph node by node, every window of tokens at once, so that each weight is read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from autodeploy.weights import TensorSource, WeightPlan

Values = list[Any]
"""What a node gives for each window."""


class Walk:
    """Computes the nodes of a graph on windows of token ids, up to `last`, by the operators' references.

    A value is dropped after its last use, and a weight is in memory only while a node reads it, so that one layer's
    weights and every window's values are held at a time. `replaced` holds weights that are computed with instead of
    the plan's.
    """

    def __init__(
        self,
        graph: Graph,
        plan: WeightPlan,
        source: TensorSource,
        device: torch.device,
        windows: Sequence[Sequence[int]],
    ) -> None:
        self._graph = graph
        self._plan = plan
        self._source = source
        self._device = device
        self._windows = windows
        self._values: dict[Node, Values] = {}
        self.replaced: dict[str, Tensor] = {}

    def weight(self, node: Node) -> Tensor:
        """The weight of a `get_attr` node, on the device."""
        name = str(node.target)
        found = self.replaced.get(name)
        return self._plan[name].read(self._source).to(self._device) if found is None else found

    def values(self, node: Node) -> Values:
        """What `node`, which a node yet to come reads, gives for each window."""
        return self._values[node]

    def run(self, last: Node, before: Mapping[Node, Callable[[], None]]) -> None:
        """Compute everything up to `last`; `before` is called when a node's inputs are known."""
        users = {node: len(node.users) for node in self._graph.nodes}
        with torch.no_grad():
            for node in self._graph.nodes:
                if node in before:
                    before[node]()
                if node is last:
                    break
                if node.op != "get_attr":
                    self._values[node] = self._compute(node)
                for used in node.all_input_nodes:
                    users[used] -= 1
                    if not users[used]:
                        self._values.pop(used, None)
        self._values.clear()

    def _compute(self, node: Node) -> Values:
        if node.op == "placeholder":
            return [self._input(str(node.target), window) for window in self._windows]
        weights = {used: self.weight(used) for used in node.all_input_nodes if used.op == "get_attr"}
        results = []
        for index in range(len(self._windows)):

            def given(used: Node, index: int = index) -> Any:
                return weights[used] if used in weights else self._values[used][index]

            args, kwargs = map_arg((node.args, dict(node.kwargs)), given)
            assert callable(node.target), f"{node.name} is a call"
            results.append(node.target(*args, **kwargs))
        return results

    def _input(self, name: str, window: Sequence[int]) -> Tensor:
        ids = window if name == "input_ids" else range(len(window))
        return torch.tensor([list(ids)], device=self._device)
