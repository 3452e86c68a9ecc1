"""All experts at once, on weights that hold all of them, as the chosen ones alone; a part of `canonicalize_experts`."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import arguments, insert_call, is_call, value
from autodeploy.passes.einsum import read_einsum
from autodeploy.passes.expert_terms import Routing, unspread
from autodeploy.passes.join_experts import POINTWISE, Unlike
from autodeploy.passes.simplify_shapes import order_of
from autodeploy.pipeline import Context
from autodeploy.weights import Expression, Permute, Reshape

aten = torch.ops.aten
ops = torch.ops.autodeploy
_REORDERS = (aten.transpose.int, aten.permute.default)
_PARTS = (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.slice.Tensor)


@dataclass(frozen=True)
class DenseMixture:
    """A sum over the dimension `place` of the results of all experts, each times its share of a row."""

    root: Node
    results: Node
    routing: Routing
    place: int


def read_dense(root: Node) -> DenseMixture | None:
    """What `root` sums up, where the table of shares `[..., E]` shows which experts a row chose."""
    named = arguments(root)
    product, dims = named["self"], named["dim"]
    if not is_call(product, aten.mul.Tensor) or not dims or len(dims) > 1 or named["keepdim"] or named["dtype"]:
        return None
    place = dims[0] % value(product).dim()
    for results, column in (product.args[:2], product.args[1::-1]):
        if not isinstance(results, Node) or not isinstance(column, Node):
            return None
        table = _table(column, place)
        routing = None if table is None else unspread(table)
        if routing is not None and routing.selected is not None:
            return DenseMixture(root, results, routing, place)
    return None


def _table(column: Node, place: int) -> Node | None:
    """The table `[..., E]` that `column`, with experts at `place` and a last dimension of one element, is made of."""
    if is_call(column, aten.to.dtype):
        return _table(cast("Node", column.args[0]), place)
    rank = value(column).dim()
    if not is_call(column, aten.unsqueeze.default) or column.args[1] not in (-1, rank - 1):
        return None
    table = cast("Node", column.args[0])
    if place == rank - 2:
        return table
    if not is_call(table, *_REORDERS):
        return None
    order = order_of(table)
    moves = order[place] == rank - 2 and _keeps_order(order, place)
    return cast("Node", table.args[0]) if moves else None


def _keeps_order(order: Sequence[int], place: int) -> bool:
    """Whether the other dimensions than `place` stay in their order."""
    others = [dim for index, dim in enumerate(order) if index != place]
    return others == sorted(others)


class Chosen:
    """The results of the experts `selected [..., k]` alone, computed at the graph's insertion point."""

    def __init__(self, gm: GraphModule, ctx: Context, selected: Node) -> None:
        self._gm, self._ctx, self._selected = gm, ctx, selected
        self._done: dict[tuple[Node, int], Node] = {}

    def compute(self, node: Node, place: int) -> Node:
        """`[..., k, F]` for the tensor `node`, whose dimension `place` is of experts, and the last of features.

        The other dimensions are rows. Raises Unlike where they mix.
        """
        if (node, place) not in self._done:
            self._done[node, place] = self._computed(node, place)
        return self._done[node, place]

    def _computed(self, node: Node, place: int) -> Node:
        if str(value(node).shape[place]) == "1":
            return self._shared(insert_call(node.graph, aten.squeeze.dim, (node, place)))
        if is_call(node, aten.expand.default):
            source = cast("Node", node.args[0])
            added = value(source).dim() < value(node).dim()
            return self._shared(source) if added and place == 0 else self.compute(source, place)
        if is_call(node, aten.einsum.default):
            return self._einsum(node, place)
        if is_call(node, aten.matmul.default, aten.bmm.default) and place == 0 and value(node).dim() == 3:
            return self._matmul(node)
        if is_call(node, aten.reshape.default) and place == value(node).dim() - 2:
            return self._projection(node)
        return self._each(node, place)

    def _each(self, node: Node, place: int) -> Node:
        """What does the same to every expert: a reordering, a part of the features, or a function of each element."""
        if is_call(node, *_REORDERS):
            order = order_of(node)
            if not _keeps_order(order, place):
                raise Unlike(node, f"{node} reorders rows and features")
            return self.compute(cast("Node", node.args[0]), order[place])
        if is_call(node, operator.getitem):
            parts = cast("Node", node.args[0])
            return insert_call(node.graph, operator.getitem, (self._parts(parts, place), node.args[1]))
        if is_call(node, *_PARTS):
            return self._parts(node, place)
        if node.op != "call_function" or node.target not in POINTWISE:
            raise Unlike(node, f"{node} ({node.target}) is neither a projection of all experts nor pointwise")
        args = [self._operand(one, node, place) if isinstance(one, Node) else one for one in node.args]
        return insert_call(node.graph, node.target, args, node.kwargs)

    def _operand(self, operand: Node, owner: Node, place: int) -> Node:
        """An operand of a pointwise call: a tensor of the same dimensions, or a vector for each expert."""
        vectors, rank = operand, value(owner).dim()
        while is_call(vectors, aten.unsqueeze.default):
            vectors = cast("Node", vectors.args[0])
        own = [str(size) for size in value(operand).shape]
        wide = ["1"] * (rank - len(own)) + own
        if vectors.op == "get_attr" and value(vectors).dim() == 2:
            if any(size != "1" for dim, size in enumerate(wide) if dim not in (place, rank - 1)):
                raise Unlike(owner, f"{operand} is not a vector for every expert")
            return insert_call(owner.graph, aten.index.Tensor, (vectors, [self._selected]))
        if len(own) != rank:
            raise Unlike(owner, f"{operand} has other dimensions than {owner}")
        return self.compute(operand, place)

    def _parts(self, node: Node, place: int) -> Node:
        if not is_call(node, *_PARTS):
            raise Unlike(node, f"{node} ({node.target}) is no part of features")
        named, source = arguments(node), cast("Node", node.args[0])
        if named["dim"] % value(source).dim() != value(source).dim() - 1:
            raise Unlike(node, f"{node} takes a part of another dimension than features")
        given: list[Any] = [*named.values()]
        given[list(named).index("dim")] = -1
        return insert_call(node.graph, node.target, (self.compute(source, place), *given[1:]))  # type: ignore[arg-type]

    def _einsum(self, node: Node, place: int) -> Node:
        einsum = read_einsum(node)
        if einsum is not None and einsum.first.op == "get_attr":
            einsum = einsum.swapped()
        if einsum is None or einsum.second.op != "get_attr" or len(einsum.right) != 3 or len(einsum.summed) != 1:
            raise Unlike(node, f"{node} is no product with a weight of every expert")
        expert, summed = einsum.out[place], einsum.summed
        rows = einsum.rows
        if einsum.out.replace(expert, "") != rows + einsum.out[-1] or einsum.left.replace(expert, "") != rows + summed:
            raise Unlike(node, f"{node} reorders rows and features")
        x = einsum.first
        own = self.compute(x, einsum.left.index(expert)) if expert in einsum.left else self._shared(x)
        dims = [einsum.right.index(letter) for letter in (expert, einsum.out[-1], summed)]
        return self._expert_linear(own, einsum.second, dims)

    def _matmul(self, node: Node) -> Node:
        """`[E, T, K] @ [E, K, N]`."""
        x, weight = cast("tuple[Node, Node]", node.args)
        dims = [0, 2, 1]
        if is_call(weight, *_REORDERS):
            order = order_of(weight)
            dims, weight = [order[dim] for dim in dims], cast("Node", weight.args[0])
        if weight.op != "get_attr" or value(weight).dim() != 3:
            raise Unlike(node, f"{weight} is no weight of every expert")
        return self._expert_linear(self._shared(x) if value(x).dim() == 2 else self.compute(x, 0), weight, dims)

    def _projection(self, node: Node) -> Node:
        """The outputs of one `linear`, parted among the experts."""
        projection, shape = node.args[0], value(node).shape
        if not is_call(projection, ops.linear.default) or [*map(str, value(projection).shape[:-1])] != [
            *map(str, shape[:-2])
        ]:
            raise Unlike(node, f"{node} is no projection of all experts")
        x, weight, bias = cast("tuple[Node, Node, Node | None]", projection.args)
        parted = self._parted(weight, (*shape[-2:], value(weight).shape[1]))
        biases = None if bias is None else self._parted(bias, shape[-2:])
        return insert_call(node.graph, ops.expert_linear.default, (self._shared(x), self._selected, parted, biases))

    def _shared(self, x: Node) -> Node:
        return insert_call(x.graph, aten.unsqueeze.default, (x, -2))

    def _expert_linear(self, x: Node, weight: Node, dims: Sequence[int]) -> Node:
        if list(dims) != [0, 1, 2]:
            weight = self._planned(weight, Permute(self._ctx.weights[str(weight.target)], tuple(dims)))
        return insert_call(x.graph, ops.expert_linear.default, (x, self._selected, weight))

    def _parted(self, weight: Node, shape: Sequence[int]) -> Node:
        if weight.op != "get_attr":
            raise Unlike(weight, f"{weight} is no weight")
        expression, wanted = self._ctx.weights[str(weight.target)], tuple(map(int, shape))
        joined = isinstance(expression, Reshape) and expression.x.shape == wanted
        return self._planned(weight, cast("Reshape", expression).x if joined else Reshape(expression, wanted))

    def _planned(self, weight: Node, expression: Expression) -> Node:
        """The weight, as `expression` has it: a matrix or a vector for each expert."""
        name = f"{weight.target}_of_{expression.shape[0]}_experts"
        self._ctx.weights[name] = expression
        return insert_weight(self._gm, name, value(weight).new_empty(expression.shape))
