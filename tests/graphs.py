"""Small graphs from small modules, traced as models are: dynamic tokens, weights as `get_attr` nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.export import trace_module
from autodeploy.graph.attributes import set_attribute
from autodeploy.kernels import KernelTable
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.pipeline import Context, Pass, PassReport, Stage, run_passes
from autodeploy.prepare import prepare
from autodeploy.weights import MemorySource, WeightPlan


class Of(nn.Module):
    """A module that computes a function of its input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def trace(module: nn.Module, *inputs: Tensor, tokens: int = 1) -> GraphModule:
    """`module` as a graph that holds its weights; dimension `tokens` of every input is dynamic."""
    traced = trace_module(module, *inputs, dynamic=[{tokens: "T"} for _ in inputs])
    for name, tensor in traced.constants.items():
        set_attribute(traced.graph_module, name, tensor)
    return traced.graph_module


def clean(graph_module: GraphModule) -> GraphModule:
    """The same graph in the form that patterns expect."""
    CleanGraph().run(graph_module, context())
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


@dataclass(frozen=True)
class Passed:
    """A module's graph after passes, which reads the weights that they gave it."""

    graph_module: GraphModule
    reports: list[PassReport]
    context: Context


def run(passes: Sequence[Pass], module: nn.Module, *inputs: Tensor, dim: int | None = None) -> Passed:
    """Run `passes` over the graph of a module; dimension `dim` of every input is dynamic."""
    traced = trace_module(module, *inputs, dynamic=None if dim is None else [{dim: "T"} for _ in inputs])
    gm, ctx = prepare(traced, MemorySource({}), torch.device("cpu"), KernelTable([]))
    reports = run_passes(gm, passes, ctx)
    for name, tensor in ctx.weights.read(MemorySource({})).items():
        set_attribute(gm, name, tensor)
    return Passed(gm, reports, ctx)


def context(fuel: int | None = None) -> Context:
    """A context for passes that ask for no config and no weights."""
    return Context(None, WeightPlan(), torch.device("cpu"), fuel)  # type: ignore[arg-type]


def num_until(passes: Sequence[Pass], stage: Stage) -> int:
    """How many passes there are up to the end of `stage`, with the clean-up that follows it."""
    return next(index for index, one in enumerate(passes) if not one.cleanup and one.stage > stage)


def targets(graph_module: GraphModule) -> list[str]:
    """The operators of a graph in order, such as `aten.add.Tensor`."""
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]
