"""Attention written by hand to the canonical operator."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from autodeploy.graph.evaluate import Evaluator, why_unknown
from autodeploy.graph.nodes import Target, calls_of, insert_call, value
from autodeploy.graph.origin import inherit_origin
from autodeploy.patterns.attention import ATTENTIONS
from autodeploy.patterns.scores import SCORES, is_of_scores
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite.apply import erase_unused
from autodeploy.weights.plan import constants_in

aten = torch.ops.aten

# The operator that takes a number where another takes a tensor, and which argument that is.
_WITH_NUMBER: Mapping[Target, tuple[torch._ops.OpOverload, int]] = MappingProxyType(
    {
        aten.where.self: (aten.where.ScalarOther, 2),
        aten.masked_fill.Tensor: (aten.masked_fill.Scalar, 2),
        aten.maximum.default: (aten.clamp_min.default, 1),
        aten.max.other: (aten.clamp_min.default, 1),
    }
)


class CanonicalizeAttention(Pass):
    """Replace every attention, built in or written out, by the canonical operator on token-major heads.

    Masks stay what they were, as its bias; `name_masks` names them.
    """

    name: ClassVar[str] = "canonicalize_attention"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # scores are scaled and summed in another order, and their softmax is in float32
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Bring scores into one form, step by step, then find attention around them."""
        constants = constants_in(gm, ctx.weights)
        total = sum(_take_number(node, ctx, constants) for node in calls_of(gm.graph, *_WITH_NUMBER))
        for rules in (SCORES, ATTENTIONS):
            while changed := ctx.rewrite(gm, rules):
                total += changed
        _keep_last(gm, ctx)
        return total


def _keep_last(gm: GraphModule, ctx: Context) -> None:
    """Of the misses of several rounds those that are still true, and that tell something.

    Sums and products are everywhere: only whole patterns count that are of scores.
    """
    nodes = {node.name: node for node in gm.graph.nodes}
    last = {(miss.rule, miss.root): miss for miss in ctx.misses if miss.root in nodes}
    of_scores = {rule.name for rule in SCORES}
    ctx.misses[:] = [
        miss
        for miss in last.values()
        if miss.rule not in of_scores or (miss.complete and is_of_scores(nodes[miss.root]))
    ]


def _take_number(node: Node, ctx: Context, constants: Mapping[str, Tensor]) -> bool:
    """`where(mask, scores, tensor(-inf))` and the like with the number itself, where it is one that can be computed."""
    assert callable(node.target)
    target, place = _WITH_NUMBER[node.target]
    number = node.args[place]
    if not isinstance(number, Node) or value(number).dim() != 0 or why_unknown(number, constants) is not None:
        return False
    if not ctx.spend():
        return False
    args = list(node.args)
    args[place] = Evaluator(constants, 1, 1).evaluate(number).item()
    with node.graph.inserting_before(node):
        replacement = insert_call(node.graph, target, args)
    inherit_origin(replacement, node)
    node.replace_all_uses_with(replacement)
    erase_unused(node)
    return True
