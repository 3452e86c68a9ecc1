"""Normalizations as models write them."""

from __future__ import annotations

import torch
from torch.fx import Node

from autodeploy.graph.nodes import value
from autodeploy.rewrite import AnyOf, Call, Expr, Match, Rule, Var, cast, rewrite
from autodeploy.rewrite.expression import getitem

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
    bias = match.bindings.get("bias")
    if isinstance(bias, Node) and str(value(bias).shape) != str(weight.shape):
        return f"bias {tuple(value(bias).shape)} does not span the last dimension of {tuple(x.shape)}"
    return keeps_form(match)


def keeps_form(match: Match) -> str | None:
    """Decline a norm whose epsilon is no number, or whose result is of another dtype than its input.

    So it does where what the weight multiplies is of another dtype.
    """
    if not isinstance(match.eps, (int, float)):
        return f"the epsilon is {match.eps}, not a number"
    dtypes = {value(match.root).dtype, match.bindings.get("out_dtype", value(match.root).dtype)}
    return None if dtypes == {value(match.x).dtype} else "the result is of another dtype than the input"


def spans_heads(match: Match) -> str | None:
    """Decline a weight that is not one number for each element of each head."""
    x, weight = value(match.x), value(match.weight)
    if weight.dim() != 2 or str(tuple(weight.shape)) != str(tuple(x.shape[-2:])):
        return f"weight {tuple(weight.shape)} does not span the last two dimensions of {tuple(x.shape)}"
    return keeps_form(match)


def is_of_heads(match: Match) -> str | None:
    """Decline unless the swapped dimensions are not the one that is normalized."""
    return None if value(match.x).dim() == 4 else "the input is not of heads"


def _mean(x: Expr) -> Call:
    return Call(aten.mean.dim, (x, [-1], True))


def _square(x: Expr) -> AnyOf:
    return AnyOf((Call(aten.pow.Tensor_Scalar, (x, 2)), Call(aten.mul.Tensor, (x, x)), Call(aten.square.default, (x,))))


def _over_root(x: Expr, squared: Expr) -> AnyOf:
    """x over the square root of another tensor."""
    inverse = AnyOf((Call(aten.rsqrt.default, (squared,)), Call(aten.pow.Tensor_Scalar, (squared, -0.5))))
    return AnyOf((x * cast(inverse, Var("factor_dtype")), x / Call(aten.sqrt.default, (squared,))))


def _normalized(x: Expr, eps: Expr) -> Expr:
    """x over its root mean square, which is computed in the dtype of the cast; x itself may be multiplied uncast."""
    h = cast(x, Var("compute_dtype"))
    return _over_root(AnyOf((h, x)), _mean(_square(h)) + eps)


def _standardized(x: Expr, eps: Expr) -> Expr:
    """x less its mean, over its standard deviation, in the dtype of the cast."""
    h = cast(x, Var("compute_dtype"))
    centred, both = h - _mean(h), Call(aten.var_mean.correction, (h, [-1], 0, True))
    variance = AnyOf(
        (
            _mean(_square(centred)),
            Call(aten.var.correction, (h, [-1], 0, True)),
            Call(aten.var.dim, (h, [-1], False, True)),
        )
    )
    return AnyOf((_over_root(centred, variance + eps), _over_root(h - getitem(both, 1), getitem(both, 0) + eps)))


@rewrite(rms_norm_op, where=spans_last_dimension)
def rms_norm(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Root-mean-square norm in float32, rounded before the weight multiplies it (Llama, T5)."""
    return weight * cast(_normalized(x, eps), Var("out_dtype"))


@rewrite(rms_norm_op, where=spans_last_dimension, scale_in_float32=True)
def rms_norm_wide_scale(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Root-mean-square norm whose weight multiplies in float32, rounded last (OLMo 2, gpt-oss, Helium, Gemma 3n)."""
    return cast(cast(weight, Var("weight_dtype")) * _normalized(x, eps), Var("out_dtype"))


@rewrite(rms_norm_op, where=spans_last_dimension, scale_in_float32=True, offset=1.0)
def rms_norm_offset(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Root-mean-square norm scaled by one plus its weight, in float32 (Gemma)."""
    return cast(_normalized(x, eps) * (cast(weight, Var("weight_dtype")) + 1.0), Var("out_dtype"))


@rewrite(rms_norm_op, where=keeps_form, weight=None)
def rms_norm_unscaled(x: Expr, eps: Expr) -> Expr:
    """Root-mean-square norm without a weight (nanochat, DeepSeek V4, Llama 4's queries and keys)."""
    return cast(_normalized(x, eps), Var("out_dtype"))


@rewrite(rms_norm_op, where=spans_last_dimension, scale_in_float32=True)
def rms_norm_builtin(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """PyTorch's own `rms_norm` over the last dimension."""
    return Call(aten.rms_norm.default, (x, [Var("size")], weight, eps))


@rewrite(rms_norm_op, where=keeps_form, weight=None)
def rms_norm_builtin_unscaled(x: Expr, eps: Expr) -> Expr:
    """PyTorch's own `rms_norm` over the last dimension, without a weight (modded-nanogpt)."""
    return Call(aten.rms_norm.default, (x, [Var("size")], None, eps))


@rewrite(layer_norm_op, where=spans_last_dimension)
def layer_norm(x: Expr, weight: Expr, bias: Expr, eps: Expr) -> Expr:
    """PyTorch's own `layer_norm` over the last dimension, with a weight, with or without a bias."""
    return Call(aten.layer_norm.default, (x, [Var("size")], weight, bias, eps, Var("cudnn")))


@rewrite(layer_norm_op, where=keeps_form, weight=None, bias=None)
def layer_norm_unscaled(x: Expr, eps: Expr) -> Expr:
    """PyTorch's own `layer_norm` over the last dimension, without a weight (OLMo)."""
    return Call(aten.layer_norm.default, (x, [Var("size")], None, None, eps, Var("cudnn")))


@rewrite(layer_norm_op, where=spans_last_dimension)
def layer_norm_by_hand_biased(x: Expr, weight: Expr, bias: Expr, eps: Expr) -> Expr:
    """Layer norm with a bias, written out (models from scratch)."""
    scaled = cast(weight, Var("weight_dtype")) * _standardized(x, eps)
    return cast(scaled + cast(bias, Var("bias_dtype")), Var("out_dtype"))


@rewrite(layer_norm_op, where=spans_last_dimension, bias=None)
def layer_norm_by_hand(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Layer norm without a bias, written out in float32 (Cohere)."""
    return cast(cast(weight, Var("weight_dtype")) * _standardized(x, eps), Var("out_dtype"))


def _scaled_after(x: Expr, weight: Expr, eps: Expr) -> Expr:
    return Call(layer_norm_op, (x, None, None, eps)) * weight


@rewrite(_scaled_after, where=spans_heads)
def layer_norm_of_heads_by_hand(x: Expr, weight: Expr, eps: Expr) -> Expr:
    """Layer norm of each head with a weight of its own, written out in float32 (Cohere's queries and keys)."""
    return cast(cast(weight, Var("weight_dtype")) * _standardized(x, eps), Var("out_dtype"))


@rewrite(layer_norm_op, where=keeps_form, weight=None, bias=None)
def layer_norm_by_hand_unscaled(x: Expr, eps: Expr) -> Expr:
    """Layer norm without a weight, written out (diffusion transformers)."""
    return cast(_standardized(x, eps), Var("out_dtype"))


def _transposed_norm(x: Expr, weight: Expr, eps: Expr, offset: Expr, scale_in_float32: Expr) -> Expr:
    return Call(aten.transpose.int, (Call(rms_norm_op, (x, weight, eps, offset, scale_in_float32)), 1, 2))


@rewrite(_transposed_norm, where=is_of_heads)
def rms_norm_of_heads(x: Expr, weight: Expr, eps: Expr, offset: Expr, scale_in_float32: Expr) -> Expr:
    """A norm of each head after heads and tokens were swapped; before it, the swaps cancel (Gemma 3)."""
    swapped = Call(aten.transpose.int, (x, 1, 2))
    return Call(rms_norm_op, (swapped, weight, eps, offset, scale_in_float32))


def _transposed_layer_norm(x: Expr, weight: Expr, bias: Expr, eps: Expr) -> Expr:
    return Call(aten.transpose.int, (Call(layer_norm_op, (x, weight, bias, eps)), 1, 2))


@rewrite(_transposed_layer_norm, where=is_of_heads)
def layer_norm_of_heads(x: Expr, weight: Expr, bias: Expr, eps: Expr) -> Expr:
    """A layer norm of each head after heads and tokens were swapped; before it, the swaps cancel (Persimmon)."""
    return Call(layer_norm_op, (Call(aten.transpose.int, (x, 1, 2)), weight, bias, eps))


NORMS: tuple[Rule, ...] = (
    layer_norm,
    layer_norm_unscaled,
    layer_norm_by_hand_biased,
    layer_norm_by_hand,
    layer_norm_of_heads_by_hand,
    rms_norm_offset,
    rms_norm,
    rms_norm_wide_scale,
    rms_norm_builtin,
    rms_norm_builtin_unscaled,
)
"""A layer norm contains the root-mean-square norm of what is centred, and so comes first."""

UNSCALED_NORMS: tuple[Rule, ...] = (layer_norm_by_hand_unscaled, rms_norm_unscaled)
"""Parts of the scaled forms, and so applied after them."""

HEAD_NORMS: tuple[Rule, ...] = (rms_norm_of_heads, layer_norm_of_heads)
"""Built on the result of the others."""
