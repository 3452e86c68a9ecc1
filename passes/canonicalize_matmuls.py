"""Matmuls of attention in one form: of batch and heads, each a dimension of its own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import calls_of, is_call, value
from autodeploy.graph.origin import inherit_origin
from autodeploy.passes.einsum import Einsum, as_matmul, as_product, read_einsum
from autodeploy.patterns.matmuls import MATMULS
from autodeploy.patterns.outer_products import OUTER_PRODUCTS
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite.apply import erase_unused


class CanonicalizeMatmuls(Pass):
    """Write einsums of two operands as matmuls, undo joins of batch and heads around attention, write out products."""

    name: ClassVar[str] = "canonicalize_matmuls"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # a scaled and added product is computed in three steps
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns until none matches: each moves a join one operator further.

        That a lone matmul or product is none of them tells nothing.
        """
        total = sum(_rewrite(node, ctx) for node in calls_of(gm.graph, torch.ops.aten.einsum.default))
        while changed := ctx.rewrite(gm, MATMULS):
            total += changed
        total += ctx.rewrite(gm, OUTER_PRODUCTS)
        ctx.misses[:] = [miss for miss in ctx.misses if miss.depth > 1]
        return total


def _rewrite(node: Node, ctx: Context) -> bool:
    einsum = read_einsum(node)
    if einsum is None or _has_matrices(einsum) or ctx.fuel == 0:
        return False
    with node.graph.inserting_before(node):
        replacement = as_product(einsum) or as_matmul(einsum)
    if replacement is None or not ctx.spend():
        return False
    inherit_origin(replacement, node)
    node.replace_all_uses_with(replacement)
    erase_unused(node)
    return True


def _has_matrices(einsum: Einsum) -> bool:
    """Whether an operand holds several matrices, gathered or all: `canonicalize_experts` knows einsums with those."""
    operands = (einsum.first, einsum.second)
    sources = [one.args[0] if is_call(one, torch.ops.aten.index.Tensor) else one for one in operands]
    return any(isinstance(one, Node) and one.op == "get_attr" and value(one).dim() > 2 for one in sources)
