"""Pick a backend for every canonical operator."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.errors import RecipeError, nearest
from autodeploy.pipeline import Context, Pass, Stage


class ChooseKernels(Pass):
    """Write the best backend that serves each operator into `meta["backend"]`; the program binds it when it loads.

    `prefer` names a backend that is taken wherever it can serve, such as "torch" for the references.
    """

    name: ClassVar[str] = "choose_kernels"
    stage: ClassVar[Stage] = Stage.LOWER
    exact: ClassVar[bool] = False  # kernels sum in orders of their own
    tolerance: ClassVar[float] = 1e-5
    prefer: str | None = None

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Ask the kernel table for each call of an operator that it serves."""
        backends = {kernel.backend for kernel in ctx.kernels}
        if self.prefer is not None and self.prefer not in backends:
            raise RecipeError(
                f"choose_kernels.prefer={self.prefer}: no such backend here; {nearest(self.prefer, backends)}"
            )
        served = {kernel.op.overload for kernel in ctx.kernels}
        changed = 0
        for node in gm.graph.nodes:
            if node.op == "call_function" and node.target in served and ctx.spend():
                able = ctx.kernels.able(node, ctx.device.type)
                preferred = [kernel for kernel in able if kernel.backend == self.prefer]
                node.meta["backend"] = (*preferred, *able)[0].backend
                changed += 1
        return changed
