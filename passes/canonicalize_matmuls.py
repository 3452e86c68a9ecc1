"""Matmuls over joined batch and heads to matmuls over both."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.matmuls import MATMULS
from autodeploy.pipeline import Context, Pass, Stage


class CanonicalizeMatmuls(Pass):
    """Undo the joining of batch and heads around the matmuls and the softmax of attention."""

    name: ClassVar[str] = "canonicalize_matmuls"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # a scaled and added product is computed in three steps
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns until none matches: each moves a join one operator further."""
        total = 0
        while changed := ctx.rewrite(gm, MATMULS):
            total += changed
        return total
