"""Joining projections of one input into a single wider one; shared by the fusion passes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import count

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import insert_call, is_call, value
from autodeploy.pipeline import Context
from autodeploy.quantization.marks import inherit_mark, scheme_of
from autodeploy.rewrite.apply import erase_unused
from autodeploy.weights import WeightPlan, stored, why_apart

aten = torch.ops.aten
linear_op = torch.ops.autodeploy.linear.default


def can_join(projections: Sequence[Node], plan: WeightPlan) -> str | None:
    """None when `projections` can become one matmul, or the reason why not."""
    if len(set(projections)) < 2:
        return "there is one projection only"
    if not all(is_call(node, linear_op) for node in projections):
        return "not all are projections"
    first = projections[0]
    for node in projections:
        if node.args[0] is not first.args[0]:
            return f"{node.name} and {first.name} project different inputs"
        if (node.args[2] is None) != (first.args[2] is None):
            return f"only one of {node.name} and {first.name} has a bias"
        if any(isinstance(weight, Node) and weight.op != "get_attr" for weight in node.args[1:]):
            return f"the weight of {node.name} is computed"
        if value(node).dtype != value(first).dtype:
            return f"{node.name} and {first.name} differ in precision"
        if scheme_of(node.args[1]) != scheme_of(first.args[1]):
            return f"{node.name} and {first.name} are to be quantized differently"
    return _why_stored_apart(projections, plan)


def _why_stored_apart(projections: Sequence[Node], plan: WeightPlan) -> str | None:
    """Why weights that the checkpoint stores quantized cannot be joined as they are, or None."""
    weights = [stored(plan[str(node.args[1].target)]) for node in projections if isinstance(node.args[1], Node)]
    held = [weight for weight in weights if weight is not None]
    return why_apart(held) if held else None


def join(gm: GraphModule, ctx: Context, projections: Sequence[Node], name: str) -> None:
    """Replace `projections` by one `linear` of their stacked weights, called `name`, and a split of its result.

    Raises ValueError when `can_join` gives a reason.
    """
    reason = can_join(projections, ctx.weights)
    if reason is not None:
        raise ValueError(reason)
    first = min(projections)
    widths = [int(value(node).shape[-1]) for node in projections]
    with gm.graph.inserting_before(first):
        weight = _stack(gm, ctx, [node.args[1] for node in projections], f"{name}.weight")
        inherit_mark(weight, first.args[1])
        biased = first.args[2] is not None
        bias = _stack(gm, ctx, [node.args[2] for node in projections], f"{name}.bias") if biased else None
        joined = insert_call(gm.graph, linear_op, (first.args[0], weight, bias))
        parts = insert_call(gm.graph, aten.split_with_sizes.default, (joined, widths, -1))
        results = [insert_call(gm.graph, operator.getitem, (parts, index)) for index in range(len(widths))]
    for node, result in zip(projections, results, strict=True):
        node.replace_all_uses_with(result)
        erase_unused(node)


def _stack(gm: GraphModule, ctx: Context, weights: Sequence[object], name: str) -> Node:
    """The weights one below the other, as a new weight of the plan."""
    nodes = [weight for weight in weights if isinstance(weight, Node)]
    ctx.weights.concat([str(node.target) for node in nodes], 0, name)
    first = value(nodes[0])
    rows = sum(int(value(node).shape[0]) for node in nodes)
    return insert_weight(gm, name, first.new_empty((rows, *first.shape[1:])))


def joined_name(projections: Sequence[Node], name: str, plan: WeightPlan) -> str:
    """`name` in the module that owns all the projections, with a number where weights are called so already.

    Its path is the longest that the names of the projections' weights begin with; it may be empty.
    """
    paths = [str(node.args[1].target).split(".")[:-2] for node in projections if isinstance(node.args[1], Node)]
    shared = [parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1]
    names = (".".join([*shared, name if index == 0 else f"{name}_{index}"]) for index in count())
    return next(path for path in names if f"{path}.weight" not in plan)
