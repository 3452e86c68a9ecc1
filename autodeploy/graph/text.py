"""A graph as text, one line a call: what it computes, with its shape and dtype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from autodeploy.graph.nodes import arguments

Names = Mapping[Node, str]
"""What the values of a graph are called; weights go by their own names, and need none here."""

_OF_THE_DEVICE = ("device", "layout", "pin_memory", "memory_format")  # where tracing happened, not what it traced
_DTYPES: Mapping[torch.dtype, str] = {
    torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32", torch.float64: "f64", torch.bool: "bool",
    torch.int32: "i32", torch.int64: "i64", torch.uint8: "u8", torch.int8: "i8", torch.float8_e4m3fn: "f8e4m3",
}  # fmt: skip


def graph_lines(graph: Graph) -> list[str]:
    """The inputs, calls and output of a graph in order; weights appear where they are read, by name."""
    return [node_text(node) for node in graph.nodes if node.op != "get_attr"]


def node_text(node: Node) -> str:
    """Such as `linear_3 = linear(add_2, model.layers.0.mlp.up_proj.weight[80, 64]): f32[1, s70, 80]`."""
    names = {one: one.name for one in (node, *node.all_input_nodes) if one.op != "get_attr"}
    return Notation().line(node, names)


def call_name(target: object) -> str:
    """An operator's name without its overload, and without the namespace where that is ours."""
    namespace = getattr(target, "namespace", "")
    return operator_name(target) if namespace in ("", "autodeploy") else f"{namespace}.{operator_name(target)}"


def operator_name(target: Any) -> str:
    """The name of an operator without its namespace and overload."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.partition("::")[2]
    return str(getattr(target, "__name__", target))


class Notation:
    """Writes a node as a line. Arguments that equal the operator's defaults, or name a device, are left out."""

    def line(self, node: Node, names: Names) -> str:
        """`%3 = rms_norm(%2, model.norm.weight[64], eps=1e-06): f32[1, T, 64]`, `%x: f32[1, T]` or `return %3`."""
        if node.op == "output":
            return f"return {self.argument(node.args[0], names)}"
        if node.op == "placeholder":
            return f"{names[node]}: {self.result(node)}"
        given = ", ".join(self._arguments(node, names))
        return f"{names[node]} = {call_name(node.target)}({given}): {self.result(node)}"

    def result(self, node: Node) -> str:
        """Dtype and shape of what a node gives: `f32[1, T, 64]`."""
        return self._type(node.meta.get("val"))

    def argument(self, value: Any, names: Names) -> str:
        """A value by its name, a weight with its shape, or a constant."""
        match value:
            case Node(op="get_attr") if value not in names:
                return f"{value.target}{self._shape(value.meta['val'])}"
            case Node():
                return names[value]
            case list() | tuple():
                return f"[{', '.join(self.argument(one, names) for one in value)}]"
            case float():
                return self.number(value)
            case torch.dtype():
                return _DTYPES.get(value, str(value))
            case _:
                return str(value)

    def number(self, number: float) -> str:
        """A constant with a point, with every digit."""
        return repr(number)

    def size(self, size: int | torch.SymInt) -> str:
        """A size of a tensor, by the graph's own symbols."""
        return str(size)

    def _arguments(self, node: Node, names: Names) -> Iterator[str]:
        """Tensors by their names alone, other arguments as `name=value`."""
        if not isinstance(node.target, torch._ops.OpOverload):
            yield from (self.argument(one, names) for one in node.args)
            return
        for parameter, value in zip(node.target._schema.arguments, arguments(node).values(), strict=True):
            if parameter.name in _OF_THE_DEVICE or (parameter.has_default_value() and value == parameter.default_value):
                continue
            text = self.argument(value, names)
            yield text if isinstance(value, Node) else f"{parameter.name}={text}"

    def _type(self, value: Any) -> str:
        """Dtype and shape, of each result where there are several."""
        match value:
            case Tensor():
                return f"{_DTYPES.get(value.dtype, value.dtype)}{self._shape(value)}"
            case list() | tuple():
                return ", ".join(map(self._type, value))
            case torch.SymInt():
                return f"int {self.size(value)}"
            case _:
                return type(value).__name__

    def _shape(self, value: Tensor) -> str:
        return f"[{', '.join(map(self.size, value.shape))}]"
