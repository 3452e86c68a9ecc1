"""Matmuls over merged batch and heads, as matmuls over both: the form in which attention is looked for."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from autodeploy.graph.nodes import value
from autodeploy.rewrite import AnyOf, Call, Computed, Expr, Match, Rule, Var, rewrite

aten = torch.ops.aten


def flattened(x: Expr) -> Call:
    """`[B, H, M, N]` as `[B * H, M, N]`."""
    return Call(aten.flatten.using_ints, (x, 0, 1))


def _merged(x: Expr, shape: str) -> AnyOf:
    """The same as models write it."""
    return AnyOf((flattened(x), Call(aten.reshape.default, (x, Var(shape)))))


def _transposed(x: Expr) -> AnyOf:
    return AnyOf(tuple(Call(aten.transpose.int, (x, *dims)) for dims in ((1, 2), (2, 1), (-1, -2), (-2, -1))))


def _num_heads(x: Any) -> int:
    """The heads of `[B, H, M, N]`, of a node or a tensor."""
    like = value(x) if isinstance(x, Node) else x
    return int(like.shape[1])


def merges_heads(match: Match) -> str | None:
    """Decline a reshape that does more than to join the first two of four dimensions."""
    for name in set(match.bindings) & {"x", "a", "b"}:
        whole = match.bindings[name]
        if not isinstance(whole, Node) or value(whole).dim() != 4:
            return f"{whole} has no batch and heads to merge"
        for user in match.interior & set(whole.users):
            if user.target is aten.reshape.default and not _joins_two(value(whole).shape, value(user).shape):
                return f"{user.name} does not join the first two dimensions of {tuple(value(whole).shape)}"
    return None


def _joins_two(whole: torch.Size, merged: torch.Size) -> bool:
    return len(merged) == 3 and list(map(str, whole[2:])) == list(map(str, merged[1:]))


def along_last(match: Match) -> str | None:
    """Decline a softmax over another dimension than the last."""
    return merges_heads(match) if match.dim in (-1, 2) else f"the softmax is over dimension {match.dim}"


def adds_rows(match: Match) -> str | None:
    """Decline what does not have a matrix for every head."""
    if not isinstance(match.bias, Node) or value(match.bias).dim() != 3:
        return "what is added has no batch and heads"
    x, bias = value(match.x), value(match.bias)
    same = str(bias.shape[0]) == str(x.shape[0] * x.shape[1])
    return None if same else f"{tuple(bias.shape)} has no matrix for every head"


def by_number(match: Match) -> str | None:
    """Decline a factor that is a tensor."""
    return f"{match.factor} is no number" if isinstance(match.factor, Node) else None


def _product(a: Expr, b: Expr) -> Expr:
    return flattened(Call(aten.matmul.default, (a, b)))


def _transposed_product(a: Expr, b: Expr) -> Expr:
    return flattened(Call(aten.matmul.default, (a, Call(aten.transpose.int, (b, 2, 3)))))


def _sum(bias: Expr, a: Expr, b: Expr, beta: Expr, alpha: Expr) -> Expr:
    return Call(aten.bmm.default, (a, b)) * alpha + bias * beta


def _scaled(x: Expr, factor: Expr) -> Expr:
    return flattened(x * factor)


def _divided(x: Expr, factor: Expr) -> Expr:
    return flattened(x / factor)


def _biased(x: Expr, bias: Expr) -> Expr:
    split = Call(aten.unflatten.int, (bias, 0, [-1, Computed(_num_heads, (x,))]))
    return flattened(x + split)


def _converted(x: Expr, dtype: Expr) -> Expr:
    return flattened(Call(aten.to.dtype, (x, dtype)))


def _softmax(x: Expr, dtype: Expr) -> Expr:
    return flattened(Call(aten.softmax.int, (x, -1, dtype)))


@rewrite(_product, where=merges_heads)
def merged_matmul(a: Expr, b: Expr) -> Expr:
    """A product of matrices whose batch and heads were joined."""
    return Call(aten.bmm.default, (_merged(a, "a_shape"), _merged(b, "b_shape")))


@rewrite(_transposed_product, where=merges_heads)
def merged_matmul_transposed(a: Expr, b: Expr) -> Expr:
    """A product with the transpose of a matrix whose batch and heads were joined."""
    return Call(aten.bmm.default, (_merged(a, "a_shape"), _transposed(_merged(b, "b_shape"))))


@rewrite(_sum)
def added_matmul(bias: Expr, a: Expr, b: Expr, beta: Expr, alpha: Expr) -> Expr:
    """A product that is scaled and added to something in one call (Bloom)."""
    return Call(aten.baddbmm.default, (bias, a, b, beta, alpha))


@rewrite(_scaled, where=by_number)
def merged_scale(x: Expr, factor: Expr) -> Expr:
    """A factor of joined heads."""
    return flattened(x) * factor


@rewrite(_divided, where=by_number)
def merged_divisor(x: Expr, factor: Expr) -> Expr:
    """A divisor of joined heads."""
    return flattened(x) / factor


@rewrite(_biased, where=adds_rows)
def merged_bias(x: Expr, bias: Expr) -> Expr:
    """Something added to joined heads, with a matrix for each."""
    return flattened(x) + bias


@rewrite(_softmax, where=along_last)
def merged_softmax(x: Expr, dim: Expr, dtype: Expr) -> Expr:
    """A softmax of joined heads."""
    return Call(aten.softmax.int, (_merged(x, "x_shape"), dim, dtype))


@rewrite(_converted)
def merged_cast(x: Expr, dtype: Expr) -> Expr:
    """A conversion of joined heads."""
    return Call(aten.to.dtype, (flattened(x), dtype))


MATMULS: tuple[Rule, ...] = (
    merged_matmul_transposed,
    merged_matmul,
    added_matmul,
    merged_scale,
    merged_divisor,
    merged_bias,
    merged_softmax,
    merged_cast,
)
"""Applied until none is left: each moves the join one operator further."""
