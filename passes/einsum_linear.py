"""Einsums with a weight as projections; a part of `canonicalize_linears`."""

from __future__ import annotations

from math import prod

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import insert_call, is_call, value
from autodeploy.passes.einsum import Einsum, reordered
from autodeploy.pipeline import Context
from autodeploy.weights import Permute, Reshape

aten = torch.ops.aten


def as_projection(einsum: Einsum) -> Einsum | None:
    """`einsum` with the weight second, when it projects by one: a weight that sums over some of its dimensions.

    A weight of which the result keeps a dimension that the other operand has too is a weight for each of that.
    """
    for one in (einsum, einsum.swapped()):
        if one.second.op == "get_attr" and one.first.op != "get_attr" and one.summed and one.columns and not one.shared:
            return one
    return None


def added_bias(node: Node, einsum: Einsum) -> tuple[Node, Node] | None:
    """The one user of the projection `node` and the weight that it adds, a number for each of several outputs."""
    addition = next(iter(node.users))
    if len(node.users) > 1 or not is_call(addition, aten.add.Tensor) or addition.kwargs:
        return None
    bias = addition.args[addition.args[0] is node]
    if not isinstance(bias, Node) or bias.op != "get_attr" or value(bias).dtype != value(node).dtype:
        return None
    own = value(node).shape[len(einsum.rows) :]
    ends = einsum.out == einsum.rows + einsum.columns and len(own) > 1
    return (addition, bias) if ends and value(bias).shape == own else None


def as_linear(gm: GraphModule, ctx: Context, einsum: Einsum, bias: Node | None = None) -> Node:
    """The projection as `linear`, `first [..., K] @ second [N, K].T + bias [N]`; K and N may be of several dimensions.

    The plan reorders and reshapes the weights when they are read. Calls are inserted at the graph's insertion point.
    """
    graph, rows, columns, summed = gm.graph, einsum.rows, einsum.columns, einsum.summed
    x = reordered(einsum.first, einsum.left, rows + summed)
    if len(summed) > 1:
        x = insert_call(graph, aten.flatten.using_ints, (x, len(rows), -1))
    weights = (_matrix(gm, ctx, einsum), None if bias is None else _flat(gm, ctx, bias))
    result = insert_call(graph, torch.ops.autodeploy.linear.default, (x, *weights))
    if len(columns) > 1:
        sizes = [int(value(einsum.second).shape[einsum.right.index(letter)]) for letter in columns]
        result = insert_call(graph, aten.unflatten.int, (result, -1, sizes))
    return reordered(result, rows + columns, einsum.out)


def _matrix(gm: GraphModule, ctx: Context, einsum: Einsum) -> Node:
    """The weight as `[N, K]`, lazily."""
    weight, name = einsum.second, str(einsum.second.target)
    dims = tuple(einsum.right.index(letter) for letter in einsum.columns + einsum.summed)
    if dims == (0, 1):
        return weight
    turned = Permute(ctx.weights[name], dims)
    num_columns = len(einsum.columns)
    shape = (prod(turned.shape[:num_columns]), prod(turned.shape[num_columns:]))
    out_dims, in_dims = ("".join(map(str, part)) for part in (dims[:num_columns], dims[num_columns:]))
    new_name = f"{name}_as_{out_dims}_by_{in_dims}"
    ctx.weights[new_name] = turned if shape == turned.shape else Reshape(turned, shape)
    return insert_weight(gm, new_name, value(weight).new_empty(shape))


def _flat(gm: GraphModule, ctx: Context, bias: Node) -> Node:
    """The bias as `[N]`, lazily."""
    name, shape = f"{bias.target}_flat", (value(bias).numel(),)
    ctx.weights[name] = Reshape(ctx.weights[str(bias.target)], shape)
    return insert_weight(gm, name, value(bias).new_empty(shape))
