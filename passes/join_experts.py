"""Several experts as one with stacked weights; the second half of `canonicalize_experts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import insert_call, is_call, value
from autodeploy.passes.expert_terms import Routing, Term, find
from autodeploy.patterns.experts import GATHERED_ROWS
from autodeploy.pipeline import Context
from autodeploy.weights import Stack

aten = torch.ops.aten
ops = torch.ops.autodeploy
POINTWISE = frozenset(
    {
        ops.activate.default,
        ops.gated_activation.default,
        aten.to.dtype,
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.neg.default,
        aten.pow.Tensor_Scalar,
        aten.sigmoid.default,
        aten.silu.default,
        aten.relu.default,
        aten.gelu.default,
        aten.tanh.default,
        aten.exp.default,
        aten.clamp.default,
    }
)
"""What computes each element of its result from the same elements of its arguments."""


class Unlike(Exception):  # noqa: N818 (a verdict, not an error)
    """The experts do not compute the same with weights of their own: the node where they part, and the reason."""

    def __init__(self, node: Node, reason: str) -> None:
        super().__init__(reason)
        self.node = node


class Joined:
    """The experts of `terms`, computed as one at the graph's insertion point for the choices `selected [..., k]`."""

    def __init__(self, gm: GraphModule, ctx: Context, terms: Sequence[Term], selected: Node) -> None:
        self._gm, self._ctx, self._terms, self._selected = gm, ctx, terms, selected
        self._done: dict[tuple[Node, ...], Node] = {}

    def compute(self) -> Node:
        """The results of the chosen experts, `[..., k, H]`; raises Unlike when they differ in more than weights."""
        return self._join(tuple(term.result for term in self._terms))

    def _join(self, nodes: tuple[Node, ...]) -> Node:
        if nodes not in self._done:
            self._done[nodes] = self._joined(nodes)
        return self._done[nodes]

    def _joined(self, nodes: tuple[Node, ...]) -> Node:
        first = nodes[0]
        shared = self._shared_input(nodes)
        if shared is not None:
            return insert_call(first.graph, aten.unsqueeze.default, (shared, -2))
        if any(node.target is not first.target or node.op != "call_function" for node in nodes):
            raise Unlike(first, f"{first} and its like of other experts are not the same operator")
        if is_call(first, ops.linear.default):
            return self._linear(nodes)
        if first.target not in POINTWISE:
            raise Unlike(first, f"{first} ({first.target}) is neither a projection nor pointwise")
        args = [self._argument(first, given) for given in zip(*(node.args for node in nodes), strict=True)]
        if any(node.kwargs != first.kwargs for node in nodes):
            raise Unlike(first, f"{first} has other options than its like of other experts")
        return insert_call(first.graph, first.target, args, first.kwargs)

    def _argument(self, owner: Node, given: Sequence[Any]) -> Any:
        if all(isinstance(one, Node) for one in given):
            return self._join(tuple(given))
        if any(one != given[0] for one in given):
            raise Unlike(owner, f"{owner} has other constants than its like of other experts")
        return given[0]

    def _shared_input(self, nodes: tuple[Node, ...]) -> Node | None:
        """The tensor whose rows all experts take: all of them, or each those that chose it."""
        if all(node is nodes[0] for node in nodes):
            return nodes[0]
        found = [find(GATHERED_ROWS, node) for node in nodes]
        gathered = [one for one, term in zip(found, self._terms, strict=True) if one and one["rows"] is term.rows]
        if not any(found):
            return None
        if len(gathered) < len(nodes) or any(one["x"] is not gathered[0]["x"] for one in gathered):
            raise Unlike(nodes[0], f"{nodes[0]} and its like of other experts are rows of different tensors")
        x: Node = gathered[0]["x"]
        return x

    def _linear(self, nodes: tuple[Node, ...]) -> Node:
        x = self._argument(nodes[0], [node.args[0] for node in nodes])
        weight = self._stack(nodes[0], [node.args[1] for node in nodes])
        bias = self._stack(nodes[0], [node.args[2] for node in nodes])
        return insert_call(self._gm.graph, ops.expert_linear.default, (x, self._selected, weight, bias))

    def _stack(self, owner: Node, weights: Sequence[object]) -> Node | None:
        """The experts' weights along a new first dimension, as one weight of the plan."""
        if all(weight is None for weight in weights):
            return None
        nodes = [weight for weight in weights if isinstance(weight, Node) and weight.op == "get_attr"]
        if len(nodes) < len(weights) or len({(value(node).shape, value(node).dtype) for node in nodes}) > 1:
            raise Unlike(owner, f"the weights of {owner} and its like of other experts do not stack")
        name = f"{nodes[0].target}_of_{len(nodes)}_experts"
        stack = Stack(tuple(self._ctx.weights[str(node.target)] for node in nodes), 0)
        self._ctx.weights[name] = stack
        return insert_weight(self._gm, name, value(nodes[0]).new_empty(stack.shape))


def all_experts(routing: Routing, num_experts: int) -> Node:
    """The choices of rows that take every expert: `[..., E]` of 0 to E - 1, at the graph's insertion point."""
    graph = routing.weights.graph
    device = value(routing.weights).device
    numbers = insert_call(graph, aten.arange.default, (num_experts,), {"device": device})
    return insert_call(graph, aten.expand_as.default, (numbers, routing.weights))
