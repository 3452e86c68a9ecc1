"""RMSNorm and LayerNorm to canonical operators."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.norms import HEAD_NORMS, NORMS, UNSCALED_NORMS
from autodeploy.pipeline import Context, Pass, Stage


class CanonicalizeNorms(Pass):
    """Replace every norm, built in or written out, by its canonical operator."""

    name: ClassVar[str] = "canonicalize_norms"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # a norm written in the model's dtype is computed in float32
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns of scaled norms, then of those without a weight, then move them before swaps."""
        return sum(ctx.rewrite(gm, rules) for rules in (NORMS, UNSCALED_NORMS, HEAD_NORMS))
