"""Activations and gates to canonical operators."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.activations import ACTIVATIONS, GATED
from autodeploy.pipeline import Context, Pass, Stage


class CanonicalizeMlps(Pass):
    """Replace every activation, and every gate that multiplies a projection, by its canonical operator."""

    name: ClassVar[str] = "canonicalize_mlps"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # an activation written out is computed by PyTorch's own
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns for activations, then those that multiply them."""
        return ctx.rewrite(gm, ACTIVATIONS) + ctx.rewrite(gm, GATED)
