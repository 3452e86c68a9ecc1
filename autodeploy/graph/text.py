"""A graph as text, one line a call: what it computes, with its shape and dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node


def graph_lines(graph: Graph) -> list[str]:
    """The inputs, calls and output of a graph in order; weights appear where they are read, by name."""
    return [node_text(node) for node in graph.nodes if node.op != "get_attr"]


def node_text(node: Node) -> str:
    """Such as `linear_3: float32[1, s70, 64] = autodeploy.linear(add_2, model.layers.0.mlp.up_proj.weight, None)`."""
    if node.op == "output":
        return f"return {_argument(node.args[0])}"
    shown = _described(node.meta.get("val"))
    if node.op == "placeholder":
        return f"{node.name}: {shown} = input"
    arguments = [_argument(one) for one in node.args]
    arguments += [f"{name}={_argument(one)}" for name, one in node.kwargs.items()]
    return f"{node.name}: {shown} = {target_text(node.target)}({', '.join(arguments)})"


def target_text(target: object) -> str:
    """An operator's name without the overload that says nothing: `aten.add.Tensor`, `autodeploy.linear`."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removesuffix(".default")
    return str(getattr(target, "__name__", target))


def _argument(value: Any) -> str:
    if isinstance(value, Node):
        return str(value.target) if value.op == "get_attr" else value.name
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_argument, value))}]"
    return str(value).removeprefix("torch.")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_described, value))})"
    return str(value)
