"""The memory that activations take while a graph runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from autodeploy.cost.meta import MetaInterpreter


def peak_bytes(graph_module: GraphModule, inputs: list[Tensor]) -> int:
    """The most that is alive at once besides inputs and weights, all of which are on the meta device."""
    return max((size for _, size in alive_bytes(graph_module, inputs)), default=0)


def alive_bytes(graph_module: GraphModule, inputs: list[Tensor]) -> list[tuple[str, int]]:
    """What is alive besides inputs and weights after each call, by its name, in order.

    Each value lives until its last user has run; views share the memory of what they view.
    """
    meter = _Meter(graph_module)
    meter.run(*inputs)
    return meter.alive


class _Meter(MetaInterpreter):
    """Runs a graph on tensors without data, and weighs what is alive."""

    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__(graph_module)
        self.alive: list[tuple[str, int]] = []
        self.given: set[int] = set()

    def run_node(self, n: Node) -> Any:
        """Run a node, and weigh."""
        result = super().run_node(n)
        if n.op in ("placeholder", "get_attr"):
            self.given.update(_storages(result))
        elif n.op == "call_function":
            alive: dict[int, int] = _storages(result)
            for node, value in self.env.items():
                if node.op == "call_function":  # inputs and weights are many, and do not count
                    alive.update(_storages(value))
            self.alive.append((n.name, sum(size for key, size in alive.items() if key not in self.given)))
        return result


def _storages(value: Any) -> dict[int, int]:
    """The memory behind tensors, by identity."""
    if isinstance(value, (tuple, list)):
        return {key: size for one in value for key, size in _storages(one).items()}
    if not isinstance(value, Tensor):
        return {}
    storage = value.untyped_storage()
    return {storage._cdata: storage.nbytes()}
