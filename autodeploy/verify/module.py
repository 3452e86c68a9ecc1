"""Verifying passes on a module of a user's: what it gives for fresh inputs like those it was traced with."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

import torch
from torch import Tensor
from torch.fx import GraphModule
from typing_extensions import override

from autodeploy.export import Traced, trace_module
from autodeploy.graph.nodes import calls_of, value
from autodeploy.kernels import KernelTable
from autodeploy.program import bind
from autodeploy.verify.execution import Execution
from autodeploy.verify.weights import BoundaryWeights
from autodeploy.weights import WeightPlan


@dataclass(frozen=True)
class InputSamples:
    """The inputs of each call, by what they are: "random" and the "example" of the trace.

    `over_vocabulary` says whether the results are logits.
    """

    calls: Mapping[str, tuple[Tensor, ...]]
    over_vocabulary: bool


class ModuleExecution(Execution):
    """Runs the graphs of a module on its inputs."""

    def __init__(self, samples: InputSamples, weights: BoundaryWeights, table: KernelTable) -> None:
        self._samples = samples
        self._weights = weights
        self._table = table

    @property
    @override
    def over_vocabulary(self) -> bool:
        return self._samples.over_vocabulary

    @override
    @torch.inference_mode()
    def results(self, gm: GraphModule, plan: WeightPlan) -> dict[str, Tensor]:
        """The result for each kind of sample."""
        device = self._weights.device
        graph, names = bind(gm.graph, self._table, device)
        placeholders = gm.graph.find_nodes(op="placeholder")
        bound = [str(node.target) for node in graph.find_nodes(op="placeholder")][: len(placeholders)]
        held = self._weights.read(plan)
        weights = [held[name] for name in names]
        module = GraphModule(torch.nn.Module(), graph)
        results = {}
        for kind, inputs in self._samples.calls.items():
            given = {
                str(node.target): one.to(device, value(node).dtype)
                for node, one in zip(placeholders, inputs, strict=True)
            }
            results[kind] = module(*(given[name] for name in bound), *weights)
        return results


def input_samples(traced: Traced) -> InputSamples:
    """The example of a trace, and inputs drawn anew between its least and its greatest numbers."""
    generator = torch.Generator().manual_seed(0)
    drawn = tuple(_like(one, generator) for one in traced.inputs)
    calls = {"random": drawn, "example": traced.inputs}
    return InputSamples(MappingProxyType(calls), _gives_logits(traced.graph_module))


def dtype_of(traced: Traced) -> torch.dtype:
    """The dtype that a module computes in: that of its first parameter, or else of its first input, with a point."""
    floating = (one.dtype for one in chain(traced.model.parameters(), traced.inputs) if one.is_floating_point())
    return next(floating, torch.float32)


def retrace(traced: Traced, dtype: torch.dtype) -> Traced:
    """The trace of a copy of the module that computes in `dtype`, with sizes dynamic where they are in `traced`."""
    placeholders = traced.graph_module.graph.find_nodes(op="placeholder")
    sizes = [enumerate(value(node).shape) for node in placeholders]
    dynamic = [{dim: str(size) for dim, size in one if isinstance(size, torch.SymInt)} for one in sizes]
    own = dtype_of(traced)
    inputs = [one.to(dtype) if one.dtype is own else one for one in traced.inputs]
    return trace_module(deepcopy(traced.model).to(dtype), *inputs, dynamic=dynamic)


def _like(example: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor of the same shape and dtype, uniform over the range of `example`; normal around it where that is 0."""
    shape = example.shape
    if example.dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    low, high = example.double().aminmax()
    if not example.is_floating_point():
        return torch.randint(int(low), int(high) + 1, shape, generator=generator, dtype=example.dtype)
    if low == high:
        return (low + torch.randn(shape, generator=generator, dtype=torch.float64)).to(example.dtype)
    return (low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)).to(example.dtype)


def _gives_logits(gm: GraphModule) -> bool:
    """Whether a result has an entry for every row of a table that tokens are looked up in."""
    result = gm.graph.output_node().args[0]
    lookups = (torch.ops.aten.embedding.default, torch.ops.autodeploy.embedding.default)
    tables = [node.args[0] for node in calls_of(gm.graph, *lookups)]
    assert isinstance(result, torch.fx.Node)
    width = value(result).shape[-1:]
    return any(isinstance(table, torch.fx.Node) and value(table).shape[:1] == width for table in tables)
