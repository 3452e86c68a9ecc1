"""A graph as text that stays the same as long as the graph means the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from itertools import count

import torch
from torch.fx import Graph, GraphModule, Node

from autodeploy.graph.layers import find_layers
from autodeploy.graph.text import Notation

_SYMBOL = re.compile(r"\b[su]\d+\b")
_LAYER_INDEX = re.compile(r"(?<=\.)\d+(?=\.)")


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


class _Writer(Notation):
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
        names: dict[Node, str] = {}
        numbers = count()
        lines = []
        for node in _in_order_of_use(graph, {node: stretch for _, stretch in calls.values() for node in stretch}):
            if node in calls:
                function, stretch = calls[node]
                given = ", ".join(self.argument(one, names) for one in self.parameters(stretch))
                names.update((result, f"%{next(numbers)}") for result in _results(stretch))
                lines.append(f"{', '.join(names[result] for result in _results(stretch))} = {function}({given})")
            elif node.op != "get_attr":
                if node.op != "output":
                    names[node] = f"%{node.target if node.op == 'placeholder' else next(numbers)}"
                lines.append(self.line(node, names))
        return lines

    def number(self, number: float) -> str:
        """A constant in six digits, in which a float32 and its text agree."""
        return f"{number:.6g}"

    def size(self, size: int | torch.SymInt) -> str:
        """A size whose symbols are T, T1, …"""
        return _SYMBOL.sub(self._symbol, str(size))

    def _symbol(self, found: re.Match[str]) -> str:
        known = len(self._sizes)
        return self._sizes.setdefault(found.group(), f"T{known or ''}")


def _in_order_of_use(graph: Graph, stretch_of: Mapping[Node, Sequence[Node]]) -> list[Node]:
    """The inputs, then every other node after what it uses, a stretch by its first node alone.

    The order in which a graph happens to hold calls that do not need each other is no part of what it means: some
    models make their tables in the order of a set.
    """
    order = dict.fromkeys(graph.find_nodes(op="placeholder"))
    waiting = [(graph.output_node(), False)]
    while waiting:
        node, is_ready = waiting.pop()
        stretch = stretch_of.get(node, (node,))
        first = stretch[0]
        if first in order:
            continue
        if is_ready:
            order[first] = None
            continue
        own = set(stretch)
        used = dict.fromkeys(one for part in stretch for one in part.all_input_nodes if one not in own)
        waiting += [(first, True), *((one, False) for one in reversed(used))]
    return list(order)


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
