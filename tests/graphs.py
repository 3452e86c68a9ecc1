"""Small graphs from small modules, traced as models are: dynamic tokens, weights as `get_attr` nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule

import autodeploy.ops  # noqa: F401  (registers torch.ops.autodeploy)
from autodeploy.graph.attributes import set_attribute
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.pipeline import Context
from autodeploy.weights import WeightPlan


def trace(module: nn.Module, *inputs: Tensor, tokens: int = 1) -> GraphModule:
    """`module` as a graph that returns its only result; dimension `tokens` of every input is dynamic."""
    shapes = tuple({tokens: Dim("T", min=1, max=1 << 20)} for _ in inputs)
    program = torch.export.export(module.eval(), inputs, dynamic_shapes=shapes)
    graph_module: GraphModule = program.graph_module
    names = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    values: dict[str, Any] = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants}
    for node in graph_module.graph.find_nodes(op="placeholder"):
        if node.name in names:
            target = names[node.name]
            set_attribute(graph_module, target, values[target].detach())
            with graph_module.graph.inserting_before(node):
                attribute = graph_module.graph.get_attr(target)
            attribute.meta = dict(node.meta)
            node.replace_all_uses_with(attribute)
            graph_module.graph.erase_node(node)
    output = graph_module.graph.output_node()
    output.args = (output.all_input_nodes[0],)
    graph_module.graph._codegen = torch.fx.graph.CodeGen()
    graph_module.recompile()
    return graph_module


def clean(graph_module: GraphModule) -> GraphModule:
    """The same graph in the form that patterns expect."""
    CleanGraph().run(graph_module, context())
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def context(fuel: int | None = None) -> Context:
    """A context for passes that ask for no config and no weights."""
    return Context(None, WeightPlan(), torch.device("cpu"), fuel)  # type: ignore[arg-type]


def targets(graph_module: GraphModule) -> list[str]:
    """The operators of a graph in order, such as `aten.add.Tensor`."""
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]
