"""A graph as text that stays the same as long as the graph means the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from autodeploy.graph.layers import find_layers
from autodeploy.graph.nodes import arguments
from autodeploy.testing.counts import call_name

_OF_THE_DEVICE = ("device", "layout", "pin_memory", "memory_format")  # where tracing happened, not what it traced
_SYMBOL = re.compile(r"\b[su]\d+\b")
_LAYER_INDEX = re.compile(r"(?<=\.)\d+(?=\.)")
_DTYPES: Mapping[torch.dtype, str] = {
    torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32", torch.float64: "f64", torch.bool: "bool",
    torch.int32: "i32", torch.int64: "i64", torch.uint8: "u8", torch.int8: "i8", torch.float8_e4m3fn: "f8e4m3",
}  # fmt: skip


def graph_text(gm: GraphModule, *, fold: bool = True) -> str:
    """The graph as text: a line a call, with its operator, its arguments, its dtype and its shape.

    Values are numbered; weights go by their names; arguments that equal the operator's defaults, and those that name
    a device, are left out; dynamic sizes are called T, T1, … in the order in which they occur. With `fold`, repeated
    layers are written once, as a function that the rest calls; the numbers in their weights' names become `*`, and
    weights whose names differ in more are given to the function.
    """
    stretches = find_layers(gm.graph).stretches if fold else ()
    writer = _Writer(_differing(stretches))
    folded = [stretches] if len({tuple(writer.body(stretch)) for stretch in stretches}) == 1 else []
    functions = [line for index, stretches in enumerate(folded) for line in writer.function(f"layer{index}", stretches)]
    return "\n".join([*functions, *writer.graph(gm.graph, folded)]) + "\n"


class _Writer:
    """Writes calls as lines; holds the names of dynamic sizes, which the whole text shares.

    `given` are the weights that functions take as arguments.
    """

    def __init__(self, given: Set[Node]) -> None:
        self._given = given
        self._sizes: dict[str, str] = {}

    def function(self, name: str, stretches: Sequence[Sequence[Node]]) -> list[str]:
        """The first of some alike stretches as a function; the values it takes are %x0, %x1, …"""
        body = self.body(stretches[0])
        return [f"{name}({', '.join(self.parameters(stretches[0]).values())}):", *(f"  {line}" for line in body), ""]

    def body(self, stretch: Sequence[Node]) -> list[str]:
        """The calls of a stretch without the numbers in weights' names, and what it returns."""
        names = {**self.parameters(stretch), **{node: f"%{index}" for index, node in enumerate(stretch)}}
        lines = [_LAYER_INDEX.sub("*", self.line(node, names)) for node in stretch]
        return [*lines, f"return {', '.join(names[node] for node in _results(stretch))}"]

    def parameters(self, stretch: Sequence[Node]) -> dict[Node, str]:
        """What a stretch takes from outside, in the order of first use; other weights go by their names."""
        own = set(stretch)
        used = dict.fromkeys(used for node in stretch for used in node.all_input_nodes if used not in own)
        values = [node for node in used if node.op != "get_attr" or node in self._given]
        return {node: f"%x{index}" for index, node in enumerate(values)}

    def graph(self, graph: Graph, folded: Sequence[Sequence[Sequence[Node]]]) -> list[str]:
        """The whole graph, with a call for each stretch that is folded."""
        calls = {stretch[0]: (f"layer{index}", stretch) for index, run in enumerate(folded) for stretch in run}
        inside = {node for _, stretch in calls.values() for node in stretch}
        names: dict[Node, str] = {}
        numbers = count()
        lines = []
        for node in graph.nodes:
            if node in calls:
                function, stretch = calls[node]
                given = ", ".join(self.argument(one, names) for one in self.parameters(stretch))
                names.update((result, f"%{next(numbers)}") for result in _results(stretch))
                lines.append(f"{', '.join(names[result] for result in _results(stretch))} = {function}({given})")
            elif node.op == "placeholder":
                names[node] = f"%{node.target}"
                lines.append(f"{names[node]}: {self.type(node)}")
            elif node.op == "output":
                lines.append(f"return {self.argument(node.args[0], names)}")
            elif node.op == "call_function" and node not in inside:
                names[node] = f"%{next(numbers)}"
                lines.append(self.line(node, names))
        return lines

    def line(self, node: Node, names: Mapping[Node, str]) -> str:
        """`%3 = rms_norm(%2, model.norm.weight, eps=1e-06): f32[1, T, 64]`."""
        given = ", ".join(self.arguments(node, names))
        return f"{names[node]} = {call_name(node.target)}({given}): {self.type(node)}"

    def arguments(self, node: Node, names: Mapping[Node, str]) -> Iterator[str]:
        """Tensors by their names alone, other arguments as `name=value`."""
        if not isinstance(node.target, torch._ops.OpOverload):
            yield from (self.argument(one, names) for one in node.args)
            return
        for parameter, value in zip(node.target._schema.arguments, arguments(node).values(), strict=True):
            if parameter.name in _OF_THE_DEVICE or (parameter.has_default_value() and value == parameter.default_value):
                continue
            text = self.argument(value, names)
            yield text if isinstance(value, Node) else f"{parameter.name}={text}"

    def argument(self, value: Any, names: Mapping[Node, str]) -> str:
        """A value by its name, a weight with its shape, or a constant."""
        match value:
            case Node(op="get_attr") if value not in names:
                return f"{value.target}{self.shape(value.meta['val'])}"
            case Node():
                return names[value]
            case list() | tuple():
                return f"[{', '.join(self.argument(one, names) for one in value)}]"
            case bool():
                return str(value)
            case float():
                return f"{value:.6g}"
            case torch.dtype():
                return _DTYPES.get(value, str(value))
            case _:
                return str(value)

    def type(self, node: Node) -> str:
        """Dtype and shape, of each result where there are several."""
        return self._type(node.meta["val"])

    def _type(self, value: Any) -> str:
        match value:
            case Tensor():
                return f"{_DTYPES.get(value.dtype, value.dtype)}{self.shape(value)}"
            case list() | tuple():
                return ", ".join(map(self._type, value))
            case torch.SymInt():
                return f"int {self._size(value)}"
            case _:
                return type(value).__name__

    def shape(self, value: Tensor) -> str:
        """`[1, T, 64]`."""
        return f"[{', '.join(map(self._size, value.shape))}]"

    def _size(self, size: int | torch.SymInt) -> str:
        return _SYMBOL.sub(self._symbol, str(size))

    def _symbol(self, found: re.Match[str]) -> str:
        known = len(self._sizes)
        return self._sizes.setdefault(found.group(), f"T{known or ''}")


def _differing(stretches: Sequence[Sequence[Node]]) -> Set[Node]:
    """The weights that alike stretches use at the same place under names that differ in more than numbers."""
    uses = [
        [used for node in stretch for used in node.all_input_nodes if used.op == "get_attr"] for stretch in stretches
    ]
    alike = [{_LAYER_INDEX.sub("*", str(weight.target)) for weight in weights} for weights in zip(*uses, strict=False)]
    places = [place for place, names in enumerate(alike) if len(names) > 1]
    return {weights[place] for weights in uses for place in places}


def _results(stretch: Sequence[Node]) -> list[Node]:
    """The values of a stretch that something outside uses."""
    own = set(stretch)
    return [node for node in stretch if any(user not in own for user in node.users)]
