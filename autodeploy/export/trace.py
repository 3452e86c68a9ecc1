"""`torch.export` of a model on the meta device, with its weights lifted out as `get_attr` nodes."""

from __future__ import annotations

import inspect
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from transformers import PretrainedConfig

from autodeploy.errors import AutodeployError, UnsupportedError
from autodeploy.export.fake import as_if_on_cpu, lost_constants, move_to_meta
from autodeploy.export.lift import lift_attributes
from autodeploy.export.limits import export_within
from autodeploy.export.transformers_model import build_meta_model, freeze_rotary_scaling, uses_registry
from autodeploy.graph.rows import check_attention_count, check_rows

_EXAMPLE_TOKENS = 8


@dataclass(frozen=True)
class Traced:
    """A model as a graph: `input_ids, position_ids [1, T]` int64 -> logits `[1, T, vocabulary]`.

    A module of a user's has the inputs it was traced with, and an empty config.
    """

    graph_module: GraphModule
    config: PretrainedConfig
    model: nn.Module = field(repr=False)
    constants: dict[str, torch.Tensor] = field(repr=False)
    max_model_len: int | None = None
    """Tokens up to which the trace is exact, when that is less than what the config promises."""
    inputs: tuple[torch.Tensor, ...] = field(default=(), repr=False)
    """What a module of a user's was called with; nothing for a model of transformers, which takes tokens."""

    def _repr_html_(self) -> str:
        """How it looks in a notebook: the graph, folded by module and layer."""
        from autodeploy.inspect import view_graph  # views know graphs, not the other way round

        return view_graph(self)._repr_html_()


def trace_model(config: PretrainedConfig, dtype: torch.dtype) -> Traced:
    """Trace the unmodified transformers model of `config`; tokens are one row whose length is dynamic.

    A model that never uses transformers' attention registry keeps its attention as it wrote it, mask included; passes
    find it, and hold then what is held here for the others: that every layer has one, and that tokens meet nowhere
    else. Raises UnsupportedError with the module and the construct when the model cannot be traced.
    """
    model = build_meta_model(config, dtype)
    frozen = freeze_rotary_scaling(model, config)
    buffers = _move_buffers(model)
    program, longest = _export(model, config, "meta")
    if lost_constants(program):
        with as_if_on_cpu(model, buffers):
            program, longest = _export(model, config, "cpu")
        move_to_meta(program.graph_module)
    module, constants = lift_attributes(program, buffers)
    if uses_registry(model):
        check_attention_count(module, config)
        check_rows(module)
    limit = min((one for one in (frozen, longest) if one is not None), default=None)
    return Traced(module, config, model, constants, limit)


def _move_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Put buffers on meta, where the parameters and inputs are, and return the values that the model computed."""
    values: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                values[f"{path}.{name}" if path else name] = buffer.detach()
                module._buffers[name] = buffer.to("meta")
    return values


def _export(model: nn.Module, config: PretrainedConfig, device: str) -> tuple[ExportedProgram, int | None]:
    """The program and, where the model's code allows no more than some number of tokens, that number."""
    try:
        return export_within(lambda longest: _export_up_to(longest, model, device))
    except AutodeployError:
        raise
    except Exception as error:  # model code and torch.export raise whatever they please; the sentence says where
        raise UnsupportedError(_untraceable(model, config, error)) from error


def _export_up_to(max_tokens: int, model: nn.Module, device: str) -> ExportedProgram:
    length = Dim("T", min=1, max=max_tokens)
    tokens = torch.zeros(1, _EXAMPLE_TOKENS, dtype=torch.long, device=device)
    arguments = {"input_ids": tokens}
    if "position_ids" in inspect.signature(model.forward).parameters:
        arguments["position_ids"] = torch.arange(_EXAMPLE_TOKENS, device=device).unsqueeze(0)
    shapes = {name: {1: length} for name in arguments}
    with torch.no_grad():
        return torch.export.export(model, (), arguments, dynamic_shapes=shapes, strict=False)


def _untraceable(model: nn.Module, config: PretrainedConfig, error: Exception) -> str:
    """One sentence that names the module and the line of it that torch.export stopped at."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    modeling = Path(f"models/{config.model_type}")
    frames = [frame for frame in traceback.extract_tb(cause.__traceback__) if "transformers" in frame.filename]
    own = [frame for frame in frames if str(modeling) in frame.filename] or frames
    where = f" at `{own[-1].line}` ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    reason = str(cause).strip().split("\n")[0] or type(cause).__name__
    if reason.startswith("Constraints violated"):
        reason = "its code allows only some numbers of tokens"
    return f"{type(model).__name__} cannot be traced{where}: {reason}"
