"""Repeated and scaled heads into the attention that they are for."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.heads import HEADS
from autodeploy.pipeline import Context, Pass, Stage


class CanonicalizeHeads(Pass):
    """Give attention its key-value heads once, where a model repeats them for the query heads, and its scale."""

    name: ClassVar[str] = "canonicalize_heads"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # queries are scaled after they meet the keys
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns until none matches. Most models do neither, so only whole patterns count as missed."""
        total = 0
        while changed := ctx.rewrite(gm, HEADS):
            total += changed
        ctx.misses[:] = [miss for miss in ctx.misses if miss.complete]
        return total
