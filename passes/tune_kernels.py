"""Find the fastest kernel for every projection."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch.fx import GraphModule

from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.tuning import ROWS, matmuls_of, tune


class TuneKernels(Pass):
    """Time the kernels of each projection, for several numbers of rows, and keep the fastest that is right.

    `max_rows` is the most rows that a step will have: with more than the next number that is measured, nothing is.
    Without the GPU that the program is for, nothing is measured: the table's order decides until it first loads there.
    """

    name: ClassVar[str] = "tune_kernels"
    stage: ClassVar[Stage] = Stage.TUNE
    max_rows: int = Field(default=ROWS[-1], ge=1)

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Measure what nobody has measured before, and report every choice."""
        matmuls = matmuls_of(gm.graph)
        ctx.tuning = tune(matmuls, ctx.kernels, ctx.device, max_rows=self.max_rows)
        ctx.notes += ctx.tuning.notes
        ctx.notes += [f"{matmul}: {choice}" for matmul, choice in ctx.tuning.choices]
        return len(ctx.tuning.choices.entries)
