"""A residual added by the projection before it, so that a norm reads their sum alone."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.aliases import why_kept
from autodeploy.graph.nodes import Target, arguments, calls_of, insert_call, is_call, value
from autodeploy.graph.origin import inherit_origin
from autodeploy.ops import residual_linear
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused

ops = torch.ops.autodeploy
_OF_SUM: Mapping[Target, torch._ops.OpOverload] = MappingProxyType(
    {ops.add_rms_norm.default: ops.rms_norm.default, ops.add_layer_norm.default: ops.layer_norm.default}
)
_QUANTIZED = (ops.packed_linear.default, ops.scaled_linear.default)


class FuseResidualLinear(Pass):
    """Add the residual to a projection on its way out, where a kernel of the device does both in one.

    The norm that added it then reads one tensor and writes one. A residual that nothing else needs gives its memory to
    the sum: a library's matmul adds to what is there, and would copy it otherwise.
    """

    name: ClassVar[str] = "fuse_residual_linear"
    stage: ClassVar[Stage] = Stage.CACHE  # after QUANTIZE, which decides what the projections are
    exact: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Fuse every norm of the sum of a residual and of a projection that nothing else reads."""
        changed = 0
        for norm in calls_of(gm.graph, *_OF_SUM):
            projection, residual = _terms(norm)
            unserved = ctx.why_unserved(residual_linear.overload, value(projection).dtype)
            reason = _declines(norm, projection, residual) or unserved
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, norm, projection, reason))
            elif ctx.spend():
                _fuse(norm, projection, residual)
                changed += 1
        return changed


def _terms(norm: Node) -> tuple[Node, Node]:
    """What a norm adds, a projection first where there is one; of two the later, which the other is there before."""
    x, residual = norm.args[:2]
    assert isinstance(x, Node)
    assert isinstance(residual, Node)
    found = [term for term in (x, residual) if is_call(term, ops.linear.default, *_QUANTIZED)]
    return (residual, x) if found and max(found) is residual else (x, residual)


def _declines(norm: Node, projection: Node, residual: Node) -> str | None:
    """None where a residual that nothing needs later is added to a plain projection, or the reason."""
    if is_call(projection, *_QUANTIZED):
        return "no kernel of a quantized projection adds a residual"
    if not is_call(projection, ops.linear.default):
        return f"neither {projection.name} nor {residual.name} is a projection"
    if len(projection.users) > 1:
        return f"something else reads {projection.name}"
    if arguments(projection)["bias"] is not None:
        return "a matmul of the library adds a bias or a residual, not both"
    return why_kept(residual, norm)


def _fuse(norm: Node, projection: Node, residual: Node) -> None:
    """Give norm and sum from two calls in the place of `norm`."""
    graph, named = norm.graph, arguments(projection)
    with graph.inserting_before(norm):
        total = insert_call(graph, residual_linear.overload, (named["x"], named["weight"], residual))
        inherit_origin(total, projection)
        normed = insert_call(graph, _OF_SUM[norm.target], (total, *norm.args[2:]), norm.kwargs)  # type: ignore[index]
        inherit_origin(normed, norm)
    for part in list(norm.users):
        assert is_call(part, operator.getitem)
        part.replace_all_uses_with((normed, total)[part.args[1]])  # type: ignore[index]
        erase_unused(part)
