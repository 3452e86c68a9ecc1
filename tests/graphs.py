"""Small graphs from small modules, traced as models are: dynamic tokens, weights as `get_attr` nodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.export import trace_module
from autodeploy.graph.attributes import set_attribute
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.weights import WeightPlan


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


def context(fuel: int | None = None) -> Context:
    """A context for passes that ask for no config and no weights."""
    return Context(None, WeightPlan(), torch.device("cpu"), fuel)  # type: ignore[arg-type]


def num_until(passes: Sequence[Pass], stage: Stage) -> int:
    """How many passes there are up to the end of `stage`, with the clean-up that follows it."""
    return next(index for index, one in enumerate(passes) if not one.cleanup and one.stage > stage)


def targets(graph_module: GraphModule) -> list[str]:
    """The operators of a graph in order, such as `aten.add.Tensor`."""
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]
