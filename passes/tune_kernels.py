"""Find the fastest kernel for every projection and every attention."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch.fx import GraphModule

from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.tuning import ROWS, tune


class TuneKernels(Pass):
    """Time the kernels of projections and attention, for several numbers of rows, and keep the fastest that are right.

    `max_rows` is the most rows that a step will have: with more than the next number that is measured, nothing is.
    Without the GPU that the program is for, nothing is measured: the table's order decides until it first loads there.
    """

    name: ClassVar[str] = "tune_kernels"
    stage: ClassVar[Stage] = Stage.TUNE
    max_rows: int = Field(default=ROWS[-1], ge=1)

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Measure what nobody has measured before, and report every choice."""
        ctx.tuning = tune(gm.graph, ctx.kernels, ctx.device, max_rows=self.max_rows)
        ctx.notes += ctx.tuning.notes
        ctx.notes += [f"{site}: {choice}" for site, choice in ctx.tuning.choices]
        return len(ctx.tuning.choices.entries)
