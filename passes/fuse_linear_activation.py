"""Activations computed where their projection is written."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.linears import ACTIVATED
from autodeploy.pipeline import Context, Pass, Stage


class FuseLinearActivation(Pass):
    """Let a projection apply the activation that alone reads it."""

    name: ClassVar[str] = "fuse_linear_activation"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = False  # a kernel need not round the projection before the activation
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the pattern."""
        return ctx.rewrite(gm, ACTIVATED)
