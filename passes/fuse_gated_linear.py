"""A gate and what it gates, projected and multiplied in one."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import Target, arguments, calls_of, insert_call, is_call, value
from autodeploy.ops import CanonicalOp, gated_linear, packed_gated_linear, scaled_gated_linear
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused

aten = torch.ops.aten
ops = torch.ops.autodeploy
_GATED: Mapping[Target, CanonicalOp] = MappingProxyType(
    {
        ops.linear.default: gated_linear,
        ops.packed_linear.default: packed_gated_linear,
        ops.scaled_linear.default: scaled_gated_linear,
    }
)


class FuseGatedLinear(Pass):
    """Gate the halves of a joined projection on their way out, where a kernel of the device does both in one."""

    name: ClassVar[str] = "fuse_gated_linear"
    stage: ClassVar[Stage] = Stage.CACHE  # after QUANTIZE, which decides what the projections are
    exact: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Fuse every gated activation of the two halves of a projection that nothing else reads."""
        changed = 0
        for gated in calls_of(gm.graph, ops.gated_activation.default):
            reason = _declines(gated) or ctx.why_unserved(_gated_op(gated).overload, value(gated).dtype)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, gated, gated, reason))
            elif ctx.spend():
                _fuse(gated)
                changed += 1
        return changed


def _declines(gated: Node) -> str | None:
    """None where gate and up are the halves of one projection and end here, or the reason."""
    halves = gated.args[:2]
    for index, half in enumerate(halves):
        if not is_call(half, operator.getitem) or half.args[1] != index:
            return f"{half} is not part {index} of a split"
        if len(half.users) > 1:
            return f"something else reads {half.name}"
    parts, other = (half.args[0] for half in halves)  # type: ignore[union-attr]
    if parts is not other or not is_call(parts, aten.split_with_sizes.default):
        return "gate and up are not parts of one split"
    projection, width = parts.args[0], value(gated).shape[-1]
    if list(parts.args[1]) != [width, width] or not is_call(projection, *_GATED):  # type: ignore[arg-type]
        return "gate and up are not the halves of one projection"
    return None if len(projection.users) == 1 else f"something else reads {projection.name}"


def _projection(gated: Node) -> Node:
    projection = gated.args[0].args[0].args[0]  # type: ignore[union-attr]
    assert isinstance(projection, Node)
    return projection


def _gated_op(gated: Node) -> CanonicalOp:
    """The operator that projects and gates in one."""
    return _GATED[_projection(gated).target]  # type: ignore[index]


def _fuse(gated: Node) -> None:
    with gated.graph.inserting_before(gated):
        args = (*arguments(_projection(gated)).values(), gated.args[2])
        fused = insert_call(gated.graph, _gated_op(gated).overload, args)
    gated.replace_all_uses_with(fused)
    erase_unused(gated)
