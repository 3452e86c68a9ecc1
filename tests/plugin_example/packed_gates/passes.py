"""The pass that packs gates."""

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.pipeline import Context, Pass, Stage
from packed_gates.patterns import PATTERNS


class PackGates(Pass):
    """Read the halves of a joined projection where they are, instead of splitting it."""

    name: ClassVar[str] = "pack_gates"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = ("fuse_gate_up",)

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Replace each split, its two picks and their gate by one operator."""
        return ctx.rewrite(gm, PATTERNS)
