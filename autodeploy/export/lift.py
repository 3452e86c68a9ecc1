"""From torch.export's program to a graph whose weights are `get_attr` nodes and that returns one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.fx import GraphModule

from autodeploy.graph.attributes import set_attribute


def lift_attributes(
    program: ExportedProgram, buffers: Mapping[str, torch.Tensor] = MappingProxyType({})
) -> tuple[GraphModule, dict[str, torch.Tensor]]:
    """Replace the placeholders of parameters and buffers by `get_attr` nodes on meta, named as in the checkpoint.

    Returns the graph, which gives the first output alone, and the tensors whose values are known and that are no
    parameters. `buffers` has the values of those that were on meta while tracing.
    """
    module = program.graph_module
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    constants: dict[str, torch.Tensor] = {}
    values = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants, **buffers}
    for node in module.graph.find_nodes(op="placeholder"):
        spec = specs[node.name]
        if spec.kind is InputKind.USER_INPUT:
            continue
        assert spec.target is not None
        value = values[spec.target]
        if _is_constant(spec, value):
            constants[spec.target] = value.detach()
        set_attribute(module, spec.target, _on_meta(spec, value))
        with module.graph.inserting_before(node):
            attribute = module.graph.get_attr(spec.target)
        attribute.meta = dict(node.meta)
        node.replace_all_uses_with(attribute)
        module.graph.erase_node(node)
    _return_first(module)
    module.recompile()
    return module, constants


def _is_constant(spec: InputSpec, value: torch.Tensor) -> bool:
    """Whether the tensor is computed by the model's code, and so in no checkpoint: its value is real."""
    return spec.kind is not InputKind.PARAMETER and value.device.type != "meta"


def _on_meta(spec: InputSpec, value: torch.Tensor) -> torch.Tensor:
    """The tensor without its data; a parameter stays one, since passes may compute with what is none."""
    tensor = torch.empty(tuple(value.shape), dtype=value.dtype, device="meta")
    return torch.nn.Parameter(tensor, requires_grad=False) if spec.kind is InputKind.PARAMETER else tensor


def _return_first(module: GraphModule) -> None:
    """Make the graph return its first output alone: the logits of every causal model."""
    output = module.graph.output_node()
    output.args = (output.args[0][0],)  # type: ignore[index]
    module.graph._codegen = torch.fx.graph.CodeGen()  # without export's wrapping in dictionaries
    module.graph.eliminate_dead_code()
