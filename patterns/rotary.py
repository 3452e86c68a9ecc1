"""Rotary position embeddings as models write them; all become `rope` on token-major tensors."""

from __future__ import annotations

import torch

from autodeploy.graph.nodes import value
from autodeploy.rewrite import Call, Expr, Match, Rule, Var, cast, rewrite

aten = torch.ops.aten
rope_op = torch.ops.autodeploy.rope.default


def _slice(x: Expr, start: Expr | int, end: Expr | int, step: int = 1) -> Call:
    return Call(aten.slice.Tensor, (x, Var("last"), start, end, step))


def _rotated(x: Expr, cos: Expr, sin: Expr, turned: Expr, heads_dim: int) -> Expr:
    """x turned by the angles, which are broadcast over the heads at `heads_dim`."""
    wide_cos = Call(aten.unsqueeze.default, (cos, heads_dim))
    wide_sin = Call(aten.unsqueeze.default, (sin, heads_dim))
    return cast(x * wide_cos + turned * wide_sin, Var("out_dtype"))


def _half_turned(x: Expr) -> Expr:
    first, second = _slice(x, 0, Var("half")), _slice(x, Var("half"), Var("end"))
    return Call(aten.cat.default, ([-second, first], Var("cat_dim")))


def _pairs_turned(x: Expr) -> Expr:
    even, odd = _slice(x, 0, Var("end"), 2), _slice(x, 1, Var("end"), 2)
    stacked = Call(aten.stack.default, ([-odd, even], -1))
    return Call(aten.reshape.default, (stacked, Var("shape")))


def turns_halves(match: Match) -> str | None:
    """Decline unless the two halves of the last dimension are swapped."""
    x = value(match.x)
    if match.cat_dim % x.dim() != x.dim() - 1 or match.last != x.dim() - 1:
        return "the halves are not of the last dimension"
    if 2 * match.half != x.shape[-1] or match.end != x.shape[-1]:
        return f"the halves [0, {match.half}) and [{match.half}, {match.end}) are not equal parts of {x.shape[-1]}"
    return spans_heads(match)


def turns_pairs(match: Match) -> str | None:
    """Decline unless the even and odd elements of the last dimension are swapped."""
    x = value(match.x)
    if match.last != x.dim() - 1 or match.end != x.shape[-1]:
        return "the pairs are not of the last dimension"
    return spans_heads(match)


def spans_heads(match: Match) -> str | None:
    """Decline unless every element of a head has an angle, and the result is of the input's dtype."""
    x, cos, sin = value(match.x), value(match.cos), value(match.sin)
    if x.dim() != 4 or cos.dim() != 3 or cos.shape[-1] != x.shape[-1] or sin.shape[-1] != x.shape[-1]:
        return f"angles {tuple(cos.shape)} do not fit heads {tuple(x.shape)}"
    return None if value(match.root).dtype == x.dtype else "the result is of another dtype than the input"


def passes_the_rest(match: Match) -> str | None:
    """Decline unless the elements that do not rotate are those after the ones that do."""
    x, cos = value(match.x), value(match.cos)
    last = x.dim() - 1
    if (match.last, match.rest) != (last, last) or match.cat_dim % x.dim() != last:
        return "the parts are not of the last dimension"
    if match.split != cos.shape[-1] or match.end != x.shape[-1]:
        return f"the parts do not make up the {x.shape[-1]} elements of a head"
    return None


def _on_heads(x: Expr, cos: Expr, sin: Expr, *, interleaved: bool) -> Expr:
    """The canonical operator on `x [B, H, T, D]`, which it takes token-major; the transposes cancel later."""
    turned = Call(rope_op, (Call(aten.transpose.int, (x, 1, 2)), cos, sin, interleaved))
    return Call(aten.transpose.int, (turned, 1, 2))


def _halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return _on_heads(x, cos, sin, interleaved=False)


def _pairs(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return _on_heads(x, cos, sin, interleaved=True)


@rewrite(_halves, where=turns_halves)
def rope(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Halves that rotate, heads before tokens (Llama)."""
    h = cast(x, Var("compute_dtype"))
    return _rotated(h, cos, sin, _half_turned(h), 1)


@rewrite(rope_op, where=turns_halves)
def rope_token_major(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Halves that rotate, tokens before heads."""
    h = cast(x, Var("compute_dtype"))
    return _rotated(h, cos, sin, _half_turned(h), 2)


@rewrite(_pairs, where=turns_pairs)
def rope_interleaved(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate, heads before tokens (Cohere)."""
    h = cast(x, Var("compute_dtype"))
    return _rotated(h, cos, sin, _pairs_turned(h), 1)


@rewrite(rope_op, where=turns_pairs, interleaved=True)
def rope_interleaved_token_major(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate, tokens before heads."""
    h = cast(x, Var("compute_dtype"))
    return _rotated(h, cos, sin, _pairs_turned(h), 2)


def _partial(x: Expr, cos: Expr, sin: Expr, interleaved: Expr) -> Expr:
    turned = Call(rope_op, (Call(aten.transpose.int, (x, 1, 2)), cos, sin, interleaved))
    return Call(aten.transpose.int, (turned, 1, 2))


@rewrite(_partial, where=passes_the_rest)
def rope_partial(x: Expr, cos: Expr, sin: Expr, interleaved: Expr) -> Expr:
    """A head of which only the first elements rotate (GPT-NeoX, Phi, StableLM)."""
    first = Call(aten.transpose.int, (_slice(x, 0, Var("split")), 1, 2))
    turned = Call(aten.transpose.int, (Call(rope_op, (first, cos, sin, interleaved)), 1, 2))
    rest = Call(aten.slice.Tensor, (x, Var("rest"), Var("split"), Var("end"), 1))
    return Call(aten.cat.default, ([turned, rest], Var("cat_dim")))


@rewrite(rope_op, where=passes_the_rest)
def rope_partial_token_major(x: Expr, cos: Expr, sin: Expr, interleaved: Expr) -> Expr:
    """A token-major head of which only the first elements rotate."""
    turned = Call(rope_op, (_slice(x, 0, Var("split")), cos, sin, interleaved))
    rest = Call(aten.slice.Tensor, (x, Var("rest"), Var("split"), Var("end"), 1))
    return Call(aten.cat.default, ([turned, rest], Var("cat_dim")))


ROTARY: tuple[Rule, ...] = (rope, rope_token_major, rope_interleaved, rope_interleaved_token_major)
"""Whole heads; `PARTIAL_ROTARY` builds on their result."""

PARTIAL_ROTARY: tuple[Rule, ...] = (rope_partial, rope_partial_token_major)
