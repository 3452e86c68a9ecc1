"""Normalizations as models write them."""

from __future__ import annotations

import torch
from torch.fx import Node

from autodeploy.graph.nodes import value
from autodeploy.rewrite import AnyOf, Call, Expr, Match, Rule, Var, cast, rewrite

aten = torch.ops.aten
rms_norm_op = torch.ops.autodeploy.rms_norm.default
layer_norm_op = torch.ops.autodeploy.layer_norm.default


def spans_last_dimension(match: Match) -> str | None:
    """Decline a weight that is not one number for each element of the last dimension."""
    if not isinstance(match.weight, Node):
        return "there is no weight"
    x, weight = value(match.x), value(match.weight)
    if weight.dim() != 1 or weight.shape[0] != x.shape[-1]:
        return f"weight {tuple(weight.shape)} does not span the last dimension of {tuple(x.shape)}"
    return keeps_dtype(match)


def keeps_dtype(match: Match) -> str | None:
    """Decline a norm whose result, or what its weight multiplies, is of another dtype than its input."""
    dtypes = {value(match.root).dtype, match.bindings.get("out_dtype", value(match.root).dtype)}
    return None if dtypes == {value(match.x).dtype} else "the result is of another dtype than the input"


def is_of_heads(match: Match) -> str | None:
    """Decline unless the swapped dimensions are not the one that is normalized."""
    return None if value(match.x).dim() == 4 else "the input is not of heads"


def _mean(x: Expr) -> Call:
    return Call(aten.mean.dim, (x, [-1], True))


def _square(x: Expr) -> AnyOf:
    return AnyOf((Call(aten.pow.Tensor_Scalar, (x, 2)), Call(aten.mul.Tensor, (x, x)), Call(aten.square.default, (x,))))


def _normalized(x: Expr, eps: Expr) -> Expr:
    """x over its root mean square, in the dtype of x."""
    variance = _mean(_square(x))
    return AnyOf(
        (
            x * Call(aten.rsqrt.default, (variance + eps,)),
            x / Call(aten.sqrt.default, (variance + eps,)),
        )
    )


def _standardized(x: Expr, eps: Expr) -> Expr:
    """x less its mean, over its standard deviation, in the dtype of x."""
    mean = _mean(x)
    variance = _mean(_square(x - mean))
    return (x - mean) * Call(aten.rsqrt.default, (variance + eps,))


@rewrite(rms_norm_op, where=spans_last_dimension)
def rms_norm(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Root-mean-square norm in float32, rounded before the weight multiplies it (Llama)."""
    h = cast(x, Var("compute_dtype"))
    return weight * cast(_normalized(h, eps), Var("out_dtype"))


@rewrite(rms_norm_op, where=spans_last_dimension, scale_in_float32=True)
def rms_norm_wide_scale(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Root-mean-square norm whose weight multiplies in float32, rounded last (OLMo 2)."""
    h = cast(x, Var("compute_dtype"))
    return cast(cast(weight, Var("weight_dtype")) * _normalized(h, eps), Var("out_dtype"))


@rewrite(rms_norm_op, where=spans_last_dimension, scale_in_float32=True, offset=1.0)
def rms_norm_offset(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Root-mean-square norm scaled by one plus its weight, in float32 (Gemma)."""
    h = cast(x, Var("compute_dtype"))
    return cast(_normalized(h, eps) * (cast(weight, Var("weight_dtype")) + 1.0), Var("out_dtype"))


@rewrite(rms_norm_op, where=keeps_dtype, weight=None)
def rms_norm_unscaled(x: Expr, eps: Expr) -> Expr:
    """Root-mean-square norm without a weight."""
    return cast(_normalized(cast(x, Var("compute_dtype")), eps), Var("out_dtype"))


@rewrite(rms_norm_op, where=spans_last_dimension, scale_in_float32=True)
def rms_norm_builtin(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """PyTorch's own `rms_norm` over the last dimension."""
    return Call(aten.rms_norm.default, (x, [Var("size")], weight, eps))


@rewrite(layer_norm_op, where=spans_last_dimension)
def layer_norm(x: Expr, weight: Expr, bias: Expr, eps: Expr) -> Expr:
    """PyTorch's own `layer_norm` over the last dimension, with a weight, with or without a bias."""
    return Call(aten.layer_norm.default, (x, [Var("size")], weight, bias, eps, Var("cudnn")))


@rewrite(layer_norm_op, where=keeps_dtype, weight=None, bias=None)
def layer_norm_unscaled(x: Expr, eps: Expr) -> Expr:
    """PyTorch's own `layer_norm` over the last dimension, without a weight (OLMo)."""
    return Call(aten.layer_norm.default, (x, [Var("size")], None, None, eps, Var("cudnn")))


@rewrite(layer_norm_op, where=spans_last_dimension, bias=None)
def layer_norm_by_hand(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Layer norm without a bias, written out in float32 (Cohere)."""
    h = cast(x, Var("compute_dtype"))
    return cast(cast(weight, Var("weight_dtype")) * _standardized(h, eps), Var("out_dtype"))


def _transposed_norm(x: Expr, weight: Expr, eps: Expr, offset: Expr, scale_in_float32: Expr) -> Expr:
    return Call(aten.transpose.int, (Call(rms_norm_op, (x, weight, eps, offset, scale_in_float32)), 1, 2))


@rewrite(_transposed_norm, where=is_of_heads)
def rms_norm_of_heads(x: Expr, weight: Expr, eps: Expr, offset: Expr, scale_in_float32: Expr) -> Expr:
    """A norm of each head after heads and tokens were swapped; before it, the swaps cancel (Gemma 3)."""
    swapped = Call(aten.transpose.int, (x, 1, 2))
    return Call(rms_norm_op, (swapped, weight, eps, offset, scale_in_float32))


NORMS: tuple[Rule, ...] = (
    rms_norm_offset,
    rms_norm,
    rms_norm_wide_scale,
    rms_norm_builtin,
    layer_norm,
    layer_norm_unscaled,
    layer_norm_by_hand,
)

UNSCALED_NORMS: tuple[Rule, ...] = (rms_norm_unscaled,)
"""Parts of the scaled forms, and so applied after them."""

HEAD_NORMS: tuple[Rule, ...] = (rms_norm_of_heads,)
"""Built on the result of the others."""
