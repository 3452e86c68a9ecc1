"""`torch.export` of any module: what a user wrote, with the weights it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import PretrainedConfig

from autodeploy.errors import UnsupportedError
from autodeploy.export.lift import lift_attributes
from autodeploy.export.limits import export_within
from autodeploy.export.trace import Traced


def trace_module(module: nn.Module, *inputs: Tensor, dynamic: Sequence[Mapping[int, str]] | None = None) -> Traced:
    """Trace `module` called with `inputs`; its first result becomes that of the graph.

    `dynamic` names for each input the dimensions that may have any size, such as `[{1: "T"}]`; equal names are equal
    sizes. Without it every size is fixed. The module's parameters and buffers become constants of the trace, so that
    the graph can be optimized and run without a checkpoint. Raises UnsupportedError when torch.export cannot trace it.
    """
    named = [dict(one) for one in dynamic] if dynamic is not None else [{} for _ in inputs]
    module.train(False)
    try:
        program, longest = export_within(lambda longest: _export(module, inputs, named, longest))
    except Exception as error:  # the user's code and torch.export raise whatever they please
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UnsupportedError(f"{type(module).__name__} cannot be traced: {reason}") from error
    graph_module, constants = lift_attributes(program)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters(remove_duplicate=False)}
    examples = tuple(one.detach() for one in inputs)
    return Traced(graph_module, PretrainedConfig(), module, {**parameters, **constants}, longest, examples)


def _export(
    module: nn.Module, inputs: Sequence[Tensor], dynamic: Sequence[Mapping[int, str]], longest: int
) -> ExportedProgram:
    sizes = {name: Dim(name, min=1, max=longest) for one in dynamic for name in one.values()}
    shapes = tuple({dim: sizes[name] for dim, name in one.items()} for one in dynamic)
    with torch.no_grad():
        return torch.export.export(module, tuple(inputs), dynamic_shapes=shapes, strict=False)
