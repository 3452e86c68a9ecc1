"""Rotary embeddings to the canonical operator."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.rotary import ROTARY
from autodeploy.patterns.rotary_partial import PARTIAL_ROTARY
from autodeploy.patterns.rotary_parts import ROTARY_PARTS
from autodeploy.patterns.rotary_rows import ROTARY_ROWS
from autodeploy.pipeline import Context, Pass, Stage


class CanonicalizeRotary(Pass):
    """Replace every rotary embedding by `rope` on token-major heads."""

    name: ClassVar[str] = "canonicalize_rotary"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # products are rounded once, where the model rounds each of them
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns for whole heads and their parts, then those for partly rotated ones."""
        return ctx.rewrite(gm, (*ROTARY, *ROTARY_PARTS, *ROTARY_ROWS)) + ctx.rewrite(gm, PARTIAL_ROTARY)
