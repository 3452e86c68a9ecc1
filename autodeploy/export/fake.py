"""Tracing as if on the CPU, where tensors that a model makes of Python numbers keep their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_aggregate


def lost_constants(program: ExportedProgram) -> list[str]:
    """The tensors that the model's code made on the meta device, such as `x[[-2]]`: nobody knows what they held."""
    specs = [spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.CONSTANT_TENSOR]
    return [str(spec.target) for spec in specs if program.constants[str(spec.target)].device.type == "meta"]


@contextmanager
def as_if_on_cpu(model: nn.Module, buffers: Mapping[str, Tensor]) -> Iterator[None]:
    """Give `model` real buffers, and in place of parameters on meta ones that are on the CPU but hold nothing."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with FakeTensorMode(shape_env=ShapeEnv()):
        fakes = {id(one): nn.Parameter(torch.empty(one.shape, dtype=one.dtype), False) for one in parameters.values()}
    try:
        _put(model, {name: fakes[id(one)] for name, one in parameters.items()})
        _put(model, buffers)
        yield
    finally:
        _put(model, parameters)
        _put(model, {name: buffer.to("meta") for name, buffer in buffers.items()})


def move_to_meta(gm: GraphModule) -> None:
    """Bring the values of a graph that was traced on the CPU, and the devices in it, to meta, as passes expect them."""
    for node in gm.graph.nodes:
        moved = map_aggregate((node.args, dict(node.kwargs)), _to_meta)
        node.args, node.kwargs = moved
        if "val" in node.meta:
            node.meta["val"] = map_aggregate(node.meta["val"], _to_meta)


def _to_meta(item: Any) -> Any:
    if isinstance(item, torch.device):
        return torch.device("meta")
    if not isinstance(item, FakeTensor):
        return item
    with item.fake_mode:
        return torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")


def _put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        own = module._parameters if leaf in module._parameters else module._buffers
        own[leaf] = tensor  # type: ignore[assignment]
