"""Projections to the canonical operator."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import calls_of, insert_call, is_call, value
from autodeploy.graph.origin import inherit_origin
from autodeploy.passes.einsum import read_einsum
from autodeploy.passes.einsum_linear import added_bias, as_linear, as_projection
from autodeploy.patterns.linears import BIASES, LINEARS
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite.apply import erase_unused

aten = torch.ops.aten
linear_op = torch.ops.autodeploy.linear.default


class CanonicalizeLinears(Pass):
    """Replace every projection by `linear`, with its weight stored as `[out, in]`."""

    name: ClassVar[str] = "canonicalize_linears"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # a transposed weight may be summed in another order
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Turn weights stored otherwise, apply the patterns, then project rows where they are."""
        turned = sum(_turn(gm, node, ctx) for node in calls_of(gm.graph, aten.addmm.default, aten.matmul.default))
        turned += sum(_project(gm, node, ctx) for node in calls_of(gm.graph, aten.einsum.default))
        plain = ctx.rewrite(gm, LINEARS) + ctx.rewrite(gm, BIASES)
        moved = sum(_unflatten(node, ctx) for node in calls_of(gm.graph, aten.reshape.default))
        return turned + plain + moved


def _turn(gm: GraphModule, node: Node, ctx: Context) -> bool:
    """`x @ weight`, with a bias or without, as `linear` of a weight that the plan transposes when it is read."""
    bias, x, weight = node.args if node.target is aten.addmm.default else (None, *node.args)
    if not isinstance(weight, Node) or weight.op != "get_attr" or value(weight).dim() != 2 or node.kwargs:
        return False
    if not ctx.spend():
        return False
    name = f"{weight.target}_transposed"
    if name not in ctx.weights:
        ctx.weights.transpose(str(weight.target), name)
    with gm.graph.inserting_before(node):
        turned = insert_weight(gm, name, value(weight).transpose(0, 1))
        replacement = insert_call(gm.graph, linear_op, (x, turned, bias))
    node.replace_all_uses_with(replacement)
    erase_unused(node)
    return True


def _project(gm: GraphModule, node: Node, ctx: Context) -> bool:
    """An einsum with a weight, and the bias that is added to it, as `linear`."""
    einsum = read_einsum(node)
    projection = None if einsum is None else as_projection(einsum)
    if projection is None or not ctx.spend():
        return False
    last, bias = added_bias(node, projection) or (node, None)
    with gm.graph.inserting_before(last):
        replacement = as_linear(gm, ctx, projection, bias)
    inherit_origin(replacement, node)
    last.replace_all_uses_with(replacement)
    erase_unused(last)
    return True


def _unflatten(node: Node, ctx: Context) -> bool:
    """`reshape(linear(rows))` as `linear(reshape(rows))`, where the reshape only splits the rows (GPT-2)."""
    projection, shape = node.args[0], cast("list[int | Node]", node.args[1])
    if not is_call(projection, linear_op) or value(node).shape[-1] != value(projection).shape[-1]:
        return False
    rows, weight, bias = projection.args
    assert isinstance(rows, Node)
    if value(rows).dim() != 2 or len(projection.users) > 1 or not ctx.spend():
        return False
    with node.graph.inserting_before(node):
        unflattened = insert_call(node.graph, aten.reshape.default, (rows, [*shape[:-1], value(rows).shape[-1]]))
        replacement = insert_call(node.graph, linear_op, (unflattened, weight, bias))
    node.replace_all_uses_with(replacement)
    erase_unused(node)
    return True
