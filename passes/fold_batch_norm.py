"""Batch norms as part of the weights before them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import arguments, calls_of, insert_call, is_call, value
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused
from autodeploy.weights import Add, Cast, Constant, Expression, InverseRoot, Multiply, Subtract, WeightPlan, scale_rows

aten = torch.ops.aten
ops = torch.ops.autodeploy
_STATISTICS = ("running_mean", "running_var")
_AFFINE = ("weight", "bias")


class FoldBatchNorm(Pass):
    """Scale the weight of a convolution or projection by the batch norm after it, and shift its bias.

    The statistics are those of training, so each output channel has one scale and one shift (Ioffe and Szegedy, 2015).
    The plan computes the new weight in float32 at least when it is read, and rounds it once.
    """

    name: ClassVar[str] = "fold_batch_norm"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = False  # the scale multiplies before the sum instead of after it
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Fold each batch norm whose input can take it; say why not of the others."""
        changed = 0
        for norm in calls_of(gm.graph, aten.batch_norm.default):
            reason = _declines(norm)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, norm, norm, reason))
            elif ctx.spend():
                _fold(gm, ctx, norm)
                changed += 1
        return changed


def _declines(norm: Node) -> str | None:
    named, source = arguments(norm), norm.args[0]
    if named["training"] or any(named[name] is None for name in _STATISTICS):
        return "it measures the batch it is given"
    if not is_call(source, ops.convolution.default, ops.linear.default):
        return f"its input {source} is no convolution or projection"
    if len(source.users) > 1:
        return f"{source} is also used elsewhere"
    if is_call(source, ops.linear.default) and value(source).dim() != 2:
        return f"its channels are not those that {source} projects to"
    weights = [*source.args[1:3], *(named[name] for name in (*_AFFINE, *_STATISTICS))]
    computed = next((one for one in weights if isinstance(one, Node) and one.op != "get_attr"), None)
    return None if computed is None else f"its weight {computed} is computed"


def _fold(gm: GraphModule, ctx: Context, norm: Node) -> None:
    source = norm.args[0]
    assert isinstance(source, Node)
    x, weight, _, *rest = source.args
    owner = _name(arguments(norm)["running_mean"]).rpartition(".")[0].replace(".", "_")
    with gm.graph.inserting_before(norm):
        folded = []
        for kind, expression in zip(_AFFINE, _expressions(ctx.weights, norm, source), strict=True):
            name = f"{_name(weight)}_{owner}_{kind}"
            ctx.weights[name] = expression
            folded.append(insert_weight(gm, name, value(norm).new_empty(expression.shape)))
        result = insert_call(gm.graph, source.target, (x, *folded, *rest))  # type: ignore[arg-type]
    norm.replace_all_uses_with(result)
    gm.graph.erase_node(norm)
    erase_unused(source)


def _expressions(plan: WeightPlan, norm: Node, source: Node) -> tuple[Expression, Expression]:
    """Weight and bias of `norm(source(x))`: rows times gamma / sqrt(var + eps), and the shift that is left."""
    named = arguments(norm)
    weight = plan[_name(source.args[1])]
    wide = torch.promote_types(weight.dtype, torch.float32)
    gamma, beta, mean, variance, bias = (
        None if node is None else Cast(plan[_name(node)], wide)
        for node in (*(named[name] for name in (*_AFFINE, *_STATISTICS)), source.args[2])
    )
    assert mean is not None
    assert variance is not None
    scale: Expression = InverseRoot(variance, named["eps"])
    scale = scale if gamma is None else Multiply(scale, gamma)
    before = bias or Constant("zeros", torch.zeros(mean.shape, dtype=wide))
    shift: Expression = Multiply(Subtract(before, mean), scale)
    shift = shift if beta is None else Add(shift, beta)
    return scale_rows(weight, scale), Cast(shift, weight.dtype)


def _name(weight: object) -> str:
    assert isinstance(weight, Node)
    return str(weight.target)
