"""Rotary position embeddings of whole heads as models write them; all become `rope` on token-major tensors.

The angles are holes for tensors that broadcast over the heads, wherever they come from: computed, gathered from a
table, or put together from several axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.graph.nodes import value
from autodeploy.patterns.halves import even, even_odd_reason, first_half, halves_reason, odd, second_half
from autodeploy.rewrite import AnyOf, Call, Cast, Expr, Match, Rule, Var, cast, rewrite

aten = torch.ops.aten
rope_op = torch.ops.autodeploy.rope.default

HEADS_FIRST, TOKENS_FIRST = -3, -2
"""The dimension of the heads in `[B, H, T, D]` and `[B, T, H, D]`."""


def half_turned(x: Expr) -> Expr:
    """The halves of x swapped, the new first of them negated."""
    return Call(aten.cat.default, ([-second_half(x), first_half(x)], Var("cat_dim")))


def pairs_turned(x: Expr) -> Expr:
    """Neighbours of x swapped, the new first of each pair negated."""
    return Call(aten.reshape.default, (Call(aten.stack.default, ([-odd(x), even(x)], -1)), Var("shape")))


def fits_heads(match: Match, heads_dim: int, width: int) -> str | None:
    """None where the result is of the form of `match.x`, and cos and sin fit it."""
    return angles_reason(match, heads_dim, width) or keeps_form(match)


def angles_reason(match: Match, heads_dim: int, width: int) -> str | None:
    """None where cos and sin hold `width` angles for each token of the result, and one row of them for all heads."""
    heads, cos, sin = value(match.root), value(match.cos), value(match.sin)
    if _shape(cos) != _shape(sin) or cos.dtype != sin.dtype:
        return f"cos {tuple(cos.shape)} {cos.dtype} and sin {tuple(sin.shape)} {sin.dtype} differ"
    if heads.dim() != 4 or cos.shape[-1] != width:
        return f"angles {tuple(cos.shape)} do not fit heads {tuple(heads.shape)}"
    return shared_reason(cos, heads_dim)


def shared_reason(angles: Tensor, heads_dim: int) -> str | None:
    """None where there is a row of angles for each token, and the same one for every head."""
    tokens_dim = HEADS_FIRST + TOKENS_FIRST - heads_dim
    if angles.dim() in (3, 4) and _is_one(angles.shape[heads_dim]) and not _is_one(angles.shape[tokens_dim]):
        return None
    return f"angles {tuple(angles.shape)} are not one row for each token and the same for every head"


def keeps_form(match: Match) -> str | None:
    """Decline a result of another shape or dtype than the heads that were turned."""
    x, root = value(match.x), value(match.root)
    if _shape(root) != _shape(x):
        return f"the result {tuple(root.shape)} is not of the shape of its heads {tuple(x.shape)}"
    return None if root.dtype == x.dtype else "the result is of another dtype than the input"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))  # by the symbols' own expressions: comparing them would specialize


def _is_one(size: object) -> bool:
    return isinstance(size, int) and size == 1


def turns_halves(match: Match) -> str | None:
    """Decline unless the two halves of the last dimension are swapped, heads before tokens."""
    return halves_reason(match) or fits_heads(match, HEADS_FIRST, value(match.x).shape[-1])


def turns_halves_token_major(match: Match) -> str | None:
    """Decline unless the two halves of the last dimension are swapped, tokens before heads."""
    return halves_reason(match) or fits_heads(match, TOKENS_FIRST, value(match.x).shape[-1])


def turns_halves_by_table(match: Match) -> str | None:
    """Decline unless the halves are swapped and the angles are a table of tokens, without a dimension of heads."""
    return halves_reason(match) or fits_tokens(match)


def turns_pairs(match: Match) -> str | None:
    """Decline unless the even and odd elements of the last dimension are swapped, heads before tokens."""
    return even_odd_reason(match) or fits_heads(match, HEADS_FIRST, value(match.x).shape[-1])


def turns_pairs_token_major(match: Match) -> str | None:
    """Decline unless the even and odd elements of the last dimension are swapped, tokens before heads."""
    return even_odd_reason(match) or fits_heads(match, TOKENS_FIRST, value(match.x).shape[-1])


def fits_tokens(match: Match) -> str | None:
    """Decline angles that are not `[T, D]` for heads `[B, H, T, D]`."""
    x, cos, sin = value(match.x), value(match.cos), value(match.sin)
    if x.dim() != 4 or cos.dim() != 2 or _shape(cos) != _shape(sin) or cos.shape[-1] != x.shape[-1]:
        return f"angles {tuple(cos.shape)} are no table for the tokens of {tuple(x.shape)}"
    if _is_one(cos.shape[0]):
        return "every token turns by the same angles"
    return keeps_form(match)


def on_heads(x: Expr, cos: Expr, sin: Expr, interleaved: Expr | bool) -> Expr:
    """The canonical operator on `x [B, H, T, D]`, which it takes token-major; the transposes cancel later."""
    turned = Call(rope_op, (Call(aten.transpose.int, (x, 1, 2)), cos, sin, interleaved))
    return Call(aten.transpose.int, (turned, 1, 2))


def per_token(angles: Expr, heads_dim: int) -> Expr:
    """Angles without their dimension of heads."""
    return Call(aten.squeeze.dim, (angles, heads_dim))


def _rotated(x: Expr, cos: Expr, sin: Expr, turned: Expr, turned_narrow: Expr) -> Expr:
    """x turned by the angles; what is turned may be widened before or after."""
    wide = AnyOf((turned, Cast(turned_narrow, Var("compute_dtype"))))
    return cast(cast(x, Var("compute_dtype")) * cos + wide * sin, Var("out_dtype"))


def _by_halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return _rotated(x, cos, sin, half_turned(cast(x, Var("compute_dtype"))), half_turned(x))


def _by_pairs(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return _rotated(x, cos, sin, pairs_turned(cast(x, Var("compute_dtype"))), pairs_turned(x))


def _halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return on_heads(x, per_token(cos, HEADS_FIRST), per_token(sin, HEADS_FIRST), interleaved=False)


def _pairs(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return on_heads(x, per_token(cos, HEADS_FIRST), per_token(sin, HEADS_FIRST), interleaved=True)


def _token_major_halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return Call(rope_op, (x, per_token(cos, TOKENS_FIRST), per_token(sin, TOKENS_FIRST), False))


def _token_major_pairs(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return Call(rope_op, (x, per_token(cos, TOKENS_FIRST), per_token(sin, TOKENS_FIRST), True))


def _halves_by_table(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return on_heads(x, cos, sin, interleaved=False)


def _backwards(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return on_heads(x, per_token(cos, HEADS_FIRST), per_token(-sin, HEADS_FIRST), interleaved=False)


@rewrite(_halves, where=turns_halves)
def rope(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Halves that rotate, heads before tokens (Llama and most others; Qwen2-VL's text with angles of three axes)."""
    return _by_halves(x, cos, sin)


@rewrite(_token_major_halves, where=turns_halves_token_major)
def rope_token_major(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Halves that rotate, tokens before heads (Qwen2-VL's vision tower, Gemma 4)."""
    return _by_halves(x, cos, sin)


@rewrite(_halves_by_table, where=turns_halves_by_table)
def rope_by_table(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Halves that rotate by a table of tokens, which broadcasts over heads by itself (models written from scratch)."""
    return _by_halves(x, cos, sin)


@rewrite(_pairs, where=turns_pairs)
def rope_interleaved(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate, heads before tokens (Cohere, Ernie 4.5, GLM, Helium, RoFormer)."""
    return _by_pairs(x, cos, sin)


@rewrite(_token_major_pairs, where=turns_pairs_token_major)
def rope_interleaved_token_major(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate, tokens before heads (GPT-J, CodeGen)."""
    return _by_pairs(x, cos, sin)


@rewrite(_backwards, where=turns_halves)
def rope_backwards(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Halves that rotate the other way, heads before tokens (nanochat)."""
    h = cast(x, Var("compute_dtype"))
    turned = Call(aten.cat.default, ([second_half(h), -first_half(h)], Var("cat_dim")))
    return cast(h * cos + turned * sin, Var("out_dtype"))


ROTARY: tuple[Rule, ...] = (
    rope,
    rope_token_major,
    rope_by_table,
    rope_interleaved,
    rope_interleaved_token_major,
    rope_backwards,
)
"""What a head is multiplied with as a whole; `ROTARY_PARTS` are those that turn part after part."""
