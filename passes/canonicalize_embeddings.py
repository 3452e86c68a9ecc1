"""Lookups to the canonical operator."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.embeddings import EMBEDDINGS
from autodeploy.pipeline import Context, Pass, Stage


class CanonicalizeEmbeddings(Pass):
    """Replace every lookup of tokens or positions by `embedding`."""

    name: ClassVar[str] = "canonicalize_embeddings"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the pattern."""
        return ctx.rewrite(gm, EMBEDDINGS)
