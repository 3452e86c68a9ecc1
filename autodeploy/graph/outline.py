"""Turning the repeated layers of a graph into calls of one function."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.fx import Graph, GraphModule, Node

from autodeploy.graph.layers import Layers


def outline(graph: Graph, layers: Layers, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> int:
    """Replace each stretch of `layers` by a call of `wrap(layer)`, where `layer` is the function of the first one.

    Stretches that are wired differently from the first stay as they are. Returns the number of calls made.
    """
    first = layers.stretches[0]
    body, inputs, outputs = _function(first)
    call = wrap(_as_function(GraphModule(nn.Module(), body)))
    wiring = _wiring(first, inputs, outputs)
    changed = 0
    for stretch in layers.stretches:
        own_inputs, own_outputs = _inputs(stretch), _outputs(stretch)
        if _wiring(stretch, own_inputs, own_outputs) == wiring:
            _replace(graph, stretch, own_inputs, own_outputs, call)
            changed += 1
    graph.lint()
    return changed


def _as_function(layer: GraphModule) -> Callable[..., Any]:
    """A plain function, which a graph can call by its name."""

    def run_layer(*inputs: Any) -> Any:
        return layer.forward(*inputs)

    return run_layer


def _inputs(stretch: Sequence[Node]) -> list[Node]:
    """The values that a stretch takes from outside, in the order of their first use."""
    own = set(stretch)
    return list(dict.fromkeys(used for node in stretch for used in node.all_input_nodes if used not in own))


def _outputs(stretch: Sequence[Node]) -> list[Node]:
    """The values of a stretch that something outside uses."""
    own = set(stretch)
    return [node for node in stretch if any(user not in own for user in node.users)]


def _wiring(stretch: Sequence[Node], inputs: list[Node], outputs: list[Node]) -> tuple[Any, ...]:
    """Which values each node uses, counted from the stretch's beginning: equal for stretches that compute alike."""
    numbers = {node: index for index, node in enumerate((*inputs, *stretch))}
    uses = tuple(tuple(numbers[used] for used in node.all_input_nodes) for node in stretch)
    return uses, tuple(numbers[node] for node in outputs)


def _function(stretch: Sequence[Node]) -> tuple[Graph, list[Node], list[Node]]:
    body, inputs, outputs = Graph(), _inputs(stretch), _outputs(stretch)
    copies = {node: body.placeholder(f"input_{index}") for index, node in enumerate(inputs)}
    for node in stretch:
        copies[node] = body.node_copy(node, copies.__getitem__)
    body.output(tuple(copies[node] for node in outputs))
    return body, inputs, outputs


def _replace(
    graph: Graph, stretch: Sequence[Node], inputs: list[Node], outputs: list[Node], call: Callable[..., Any]
) -> None:
    with graph.inserting_after(stretch[-1]):
        results = graph.call_function(call, tuple(inputs))
    with graph.inserting_after(results):
        for index, node in reversed(list(enumerate(outputs))):
            node.replace_all_uses_with(
                graph.call_function(operator.getitem, (results, index)), delete_user_cb=lambda user: user not in stretch
            )
    for node in reversed(stretch):
        graph.erase_node(node)
