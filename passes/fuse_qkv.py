"""One matmul for the query, key and value projections."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import calls_of, is_call
from autodeploy.passes.join_linears import can_join, join, joined_name
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss

aten = torch.ops.aten
ops = torch.ops.autodeploy
# What may lie between a projection and attention: operators with one tensor that carries the data.
_THROUGH = (
    aten.reshape.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    ops.rope.default,
    ops.rms_norm.default,
    ops.layer_norm.default,
)


class FuseQkv(Pass):
    """Join the query, key and value projections of an attention into one matmul."""

    name: ClassVar[str] = "fuse_qkv"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = False  # a wider matmul may sum in another order
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Follow the inputs of each attention back to their projections and join those."""
        changed = 0
        for attention in calls_of(gm.graph, ops.attention.default):
            projections = [_projection(argument) for argument in attention.args[:3]]
            reason = can_join(projections, ctx.weights)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, attention, projections[0], reason))
            elif ctx.spend():
                join(gm, ctx, projections, joined_name(projections, "qkv_proj", ctx.weights))
                changed += 1
        return changed


def _projection(argument: object) -> Node:
    """The node that made the data of `argument`: a projection in every model whose q, k and v are projections."""
    assert isinstance(argument, Node)
    while is_call(argument, *_THROUGH) or (is_call(argument, aten.mul.Tensor) and _by_number(argument)):
        argument = argument.args[0]
        assert isinstance(argument, Node)
    return argument


def _by_number(node: Node) -> bool:
    return isinstance(node.args[1], (int, float))  # a query that is scaled before attention (OPT)
