"""Bounds of logits to canonical operators."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.logits import LOGITS
from autodeploy.pipeline import Context, Pass, Stage


class CanonicalizeLogits(Pass):
    """Replace every soft cap by its canonical operator; those of attention scores must be part of attention before."""

    name: ClassVar[str] = "canonicalize_logits"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # rounded once, where the model rounds three times
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns for logits."""
        return ctx.rewrite(gm, LOGITS)
