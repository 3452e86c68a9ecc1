"""What steps of one program cost, operator by operator and in all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from autodeploy.artifact import Artifact
from autodeploy.cost.costs import Costs
from autodeploy.cost.meta import META
from autodeploy.cost.peak import alive_bytes, peak_bytes
from autodeploy.cost.step import StepShape
from autodeploy.cost.work import Work, count_works
from autodeploy.program import ProgramSpec
from autodeploy.runtime.model import StepInputs


def once(_: Node) -> float:
    """In a whole graph every call stands for itself."""
    return 1.0


@dataclass(frozen=True)
class CostModel(Costs):
    """Counts what steps of one program cost. Its graph's weights are on the meta device.

    Where the graph has only some of the layers, `times` says for how many calls each stands. `twins` are weights that
    share the memory of another. What was counted for so many rows is kept, for the graph stays as it is.
    """

    graph_module: GraphModule
    spec: ProgramSpec
    times: Callable[[Node], float] = once
    twins: frozenset[str] = frozenset()
    _works: dict[tuple[int, int], list[Work]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _peaks: dict[tuple[int, int], int] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, artifact: Artifact) -> CostModel:
        """The costs of an artifact's program."""
        spec = ProgramSpec.from_dict(artifact.manifest.details["program"])  # type: ignore[arg-type]
        return cls(artifact.graph_module(), spec)

    def works(self, shape: StepShape) -> list[Work]:
        """What each operator does in a step, in order."""
        rows = (shape.num_requests, shape.num_tokens)
        if rows not in self._works:
            self._works[rows] = count_works(self.graph_module, self._inputs(shape), self.times)
        return [one.at(shape) for one in self._works[rows]]

    def peak_bytes(self, shape: StepShape) -> int:
        """The memory that a step takes for its activations."""
        rows = (shape.num_requests, shape.num_tokens)
        if rows not in self._peaks:
            self._peaks[rows] = peak_bytes(self.graph_module, self._inputs(shape))
        return self._peaks[rows]

    def alive_bytes(self, shape: StepShape) -> list[tuple[str, int]]:
        """The same after each call of the step, by its name, in order."""
        return alive_bytes(self.graph_module, self._inputs(shape))

    def weight_bytes(self) -> float:
        """The size of all weights."""
        nodes = [one for one in self.graph_module.graph.find_nodes(op="get_attr") if one.target not in self.twins]
        sizes = {str(node.target): self._size(node) * max(map(self.times, node.users)) for node in nodes}
        return sum(sizes.values())

    def cache_bytes(self) -> float:
        """What one token takes in the cache, over all layers."""
        pages = {str(node.target): node for node in self.graph_module.graph.find_nodes(op="placeholder")}
        return sum(one.bytes_of(1) * max(map(self.times, pages[one.name].users)) for one in self.spec.caches)

    def _size(self, node: Node) -> int:
        owner, _, name = str(node.target).rpartition(".")
        tensor: Tensor = getattr(self.graph_module.get_submodule(owner), name)
        return tensor.nbytes

    def _inputs(self, shape: StepShape) -> list[Tensor]:
        tokens, requests = (1, shape.total_tokens), (shape.num_requests,)
        sizes: dict[str, tuple[int, ...]] = {
            "input_ids": tokens,
            "position_ids": tokens,
            "slots": tokens[1:],
            "query_start": (shape.num_requests + 1,),
            "context_len": requests,
            "logit_rows": requests,
            "page_table": (shape.num_requests, 1),
        }
        assert sizes.keys() == StepInputs.__dataclass_fields__.keys()
        given = {name: torch.empty(size, dtype=torch.int64, device=META) for name, size in sizes.items()}
        for one in self.spec.caches:
            given[one.name] = torch.empty((1, one.num_heads, 1, one.head_dim), dtype=one.dtype, device=META)
        return [given[str(node.target)] for node in self.graph_module.graph.find_nodes(op="placeholder")]
