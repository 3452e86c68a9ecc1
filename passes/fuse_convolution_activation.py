"""Convolutions that apply their activation themselves."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.patterns.convolutions import CONVOLUTION_ACTIVATIONS
from autodeploy.pipeline import Context, Pass, Stage


class FuseConvolutionActivation(Pass):
    """Let each convolution apply the activation that alone reads its result."""

    name: ClassVar[str] = "fuse_convolution_activation"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = False  # a kernel need not round in between
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the pattern."""
        return ctx.rewrite(gm, CONVOLUTION_ACTIVATIONS)
