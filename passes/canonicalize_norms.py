"""RMSNorm and LayerNorm to canonical operators."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import arguments, calls_of, value
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
        for node in calls_of(gm.graph, torch.ops.aten.rms_norm.default):
            _name_epsilon(node)
        return sum(ctx.rewrite(gm, rules) for rules in (NORMS, UNSCALED_NORMS, HEAD_NORMS))


def _name_epsilon(node: Node) -> None:
    """Write the epsilon that PyTorch's `rms_norm` takes when it is given none: that of the dtype it computes in."""
    x, shape, weight, eps = arguments(node).values()
    if eps is None:
        node.args = (x, shape, weight, torch.finfo(torch.promote_types(value(x).dtype, torch.float32)).eps)
