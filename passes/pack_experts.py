"""Experts that are multiplied as the checkpoint stores them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import arguments, calls_of, insert_call, value
from autodeploy.graph.origin import inherit_origin
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused
from autodeploy.weights import Cast
from autodeploy.weights.stored_experts import StoredExperts, stored_experts

ops = torch.ops.autodeploy
_FLOATS = (torch.float16, torch.bfloat16)


class PackExperts(Pass):
    """Keep experts in the 4 or 8 bits of the checkpoint, where the device has a kernel that decodes them.

    Elsewhere, and where something is done to their numbers, they are read as 16 bits. Their inputs stay as they are. No
    recipe lists it yet: `--set passes.pack_experts=on` does.
    """

    name: ClassVar[str] = "pack_experts"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    exact: ClassVar[bool] = False  # numbers that were rounded to 16 bits no longer are
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Replace each projection by experts that are stored quantized."""
        changed = 0
        for call in calls_of(gm.graph, ops.expert_linear.default):
            named = arguments(call)
            weight = named["weight"]
            if not isinstance(weight, Node) or weight.op != "get_attr":
                continue
            found = stored_experts(ctx.weights[str(weight.target)], transposed=named["transposed"])
            if found is None:
                continue
            if ctx.why_unserved(ops.packed_expert_linear.default, value(call).dtype) is not None:
                reason = f"no kernel of {ctx.device.type} decodes experts"
                ctx.misses.append(Miss.at(self.name, call, weight, reason))
            elif ctx.spend():
                _replace(gm, ctx, call, found)
                changed += 1
        return changed


def _replace(gm: GraphModule, ctx: Context, call: Node, found: StoredExperts) -> None:
    named, graph = arguments(call), gm.graph
    with graph.inserting_before(call):
        parts = {part: _insert(gm, ctx, named["weight"], found, part) for part in found.parts}
        given = (named["x"], named["experts"], parts["values"], parts["scale"], parts.get("zero"), named["bias"])
        result = insert_call(graph, ops.packed_expert_linear.default, (*given, found.format))
    inherit_origin(result, call)
    call.replace_all_uses_with(result)
    erase_unused(call)


def _insert(gm: GraphModule, ctx: Context, weight: Node, found: StoredExperts, part: str) -> Node:
    name, expression = f"{weight.target}_{part}", found.parts[part]
    if part == "scale" and expression.dtype in _FLOATS and expression.dtype != value(weight).dtype:
        expression = Cast(expression, torch.float32)
    ctx.weights[name] = expression
    return insert_weight(gm, name, value(weight).new_empty(expression.shape, dtype=expression.dtype))
