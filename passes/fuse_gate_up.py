"""One matmul for the gate and up projections."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import calls_of
from autodeploy.passes.join_linears import can_join, join, joined_name
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss


class FuseGateUp(Pass):
    """Join the gate and up projections of an MLP into one matmul."""

    name: ClassVar[str] = "fuse_gate_up"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = False  # a wider matmul may sum in another order
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Join the two inputs of every gated activation."""
        changed = 0
        for gated in calls_of(gm.graph, torch.ops.autodeploy.gated_activation.default):
            projections = [argument for argument in gated.args[:2] if isinstance(argument, Node)]
            reason = can_join(projections, ctx.weights)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, gated, projections[0], reason))
            elif ctx.spend():
                join(gm, ctx, projections, joined_name(projections, "gate_up_proj", ctx.weights))
                changed += 1
        return changed
