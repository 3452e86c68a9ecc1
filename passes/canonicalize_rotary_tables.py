"""Cosines and sines of positions to the canonical operator."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.rotary_tables import ROTARY_TABLES
from autodeploy.pipeline import Context, Pass, Stage


class CanonicalizeRotaryTables(Pass):
    """Replace what computes the cosines and sines of rotary embeddings by `rotary_tables`: one call for both."""

    name: ClassVar[str] = "canonicalize_rotary_tables"
    stage: ClassVar[Stage] = Stage.CANONICALIZE  # after merge_common: all layers share the angles
    exact: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns."""
        return ctx.rewrite(gm, ROTARY_TABLES)
