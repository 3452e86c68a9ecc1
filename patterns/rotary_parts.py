"""Rotary position embeddings that are written part after part.

Angles that such code has once for each pair are doubled here; all layers share them once equal nodes are merged.
"""

from __future__ import annotations

import sys

import torch

from autodeploy.graph.nodes import value
from autodeploy.patterns.halves import (
    even,
    even_odd_reason,
    first_half,
    halves_reason,
    odd,
    second_half,
)
from autodeploy.patterns.rotary import (
    HEADS_FIRST,
    TOKENS_FIRST,
    fits_heads,
    on_heads,
    per_token,
)
from autodeploy.rewrite import Call, Expr, Match, Rule, Var, cast, rewrite

aten = torch.ops.aten
rope_op = torch.ops.autodeploy.rope.default


def _half_width(match: Match) -> int:
    return int(value(match.x).shape[-1]) // 2


def turns_parts(match: Match) -> str | None:
    """Decline unless the halves turn, by one angle a pair, heads before tokens."""
    return halves_reason(match) or fits_heads(match, HEADS_FIRST, _half_width(match))


def turns_parts_token_major(match: Match) -> str | None:
    """Decline unless the halves turn, by one angle a pair, tokens before heads."""
    return halves_reason(match) or fits_heads(match, TOKENS_FIRST, _half_width(match))


def turns_neighbours(match: Match) -> str | None:
    """Decline unless neighbours turn, by one angle a pair, heads before tokens."""
    return even_odd_reason(match) or fits_heads(match, HEADS_FIRST, _half_width(match))


def turns_neighbours_token_major(match: Match) -> str | None:
    """Decline unless neighbours turn, by one angle a pair, tokens before heads."""
    return even_odd_reason(match) or fits_heads(match, TOKENS_FIRST, _half_width(match))


def gathers_neighbours(match: Match) -> str | None:
    """Decline unless neighbours turn and their results are put one half after the other."""
    if match.cat_dim not in (-1, 3):
        return "the parts are not put together along the last dimension"
    return turns_neighbours(match)


def turned_parts(first: Expr, second: Expr, cos: Expr, sin: Expr) -> list[Expr]:
    """Both parts of a pair turned by its angle."""
    parts = (first * cos - second * sin, second * cos + first * sin)
    return [cast(part, Var("part_dtype")) for part in parts]


def _by_halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    h = cast(x, Var("compute_dtype"))
    parts = turned_parts(first_half(h), second_half(h), cos, sin)
    return cast(Call(aten.cat.default, (parts, Var("cat_dim"))), Var("out_dtype"))


def _by_neighbours(x: Expr, cos: Expr, sin: Expr) -> Expr:
    h = cast(x, Var("compute_dtype"))
    parts = Call(aten.stack.default, (turned_parts(even(h), odd(h), cos, sin), -1))
    return cast(Call(aten.reshape.default, (parts, Var("shape"))), Var("out_dtype"))


def _twice(angles: Expr, heads_dim: int) -> Expr:
    return per_token(Call(aten.cat.default, ([angles, angles], -1)), heads_dim)


def each_twice(angles: Expr, heads_dim: int) -> Expr:
    """The angle of each pair for both its neighbours, without a dimension of heads."""
    return per_token(Call(aten.repeat_interleave.self_int, (angles, 2, -1)), heads_dim)


def _halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return on_heads(x, _twice(cos, HEADS_FIRST), _twice(sin, HEADS_FIRST), interleaved=False)


def _token_major_halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return Call(rope_op, (x, _twice(cos, TOKENS_FIRST), _twice(sin, TOKENS_FIRST), False))


def _pairs(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return on_heads(x, each_twice(cos, HEADS_FIRST), each_twice(sin, HEADS_FIRST), interleaved=True)


def token_major_pairs(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """The canonical operator on neighbours of `x [B, T, H, D]`, with an angle for each pair."""
    return Call(rope_op, (x, each_twice(cos, TOKENS_FIRST), each_twice(sin, TOKENS_FIRST), True))


def _gathered(x: Expr, cos: Expr, sin: Expr) -> Expr:
    neighbours = [Call(aten.slice.Tensor, (x, -1, index, sys.maxsize, 2)) for index in (0, 1)]
    return _halves(Call(aten.cat.default, (neighbours, -1)), cos, sin)


@rewrite(_halves, where=turns_parts)
def rope_of_parts(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Halves that rotate, each computed by itself, heads before tokens (gpt-oss)."""
    return _by_halves(x, cos, sin)


@rewrite(_token_major_halves, where=turns_parts_token_major)
def rope_of_parts_token_major(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Halves that rotate, each computed by itself, tokens before heads (FlashAttention's reference)."""
    return _by_halves(x, cos, sin)


@rewrite(_pairs, where=turns_neighbours)
def rope_of_neighbours(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate, each part computed by itself, heads before tokens (models from scratch)."""
    return _by_neighbours(x, cos, sin)


@rewrite(token_major_pairs, where=turns_neighbours_token_major)
def rope_of_neighbours_token_major(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate, each part computed by itself, tokens before heads (RoFormer's code)."""
    return _by_neighbours(x, cos, sin)


@rewrite(_gathered, where=gathers_neighbours)
def rope_of_neighbours_to_halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate and end up as halves (DeepSeek V3, Mistral Large)."""
    h = cast(x, Var("compute_dtype"))
    parts = turned_parts(even(h), odd(h), cos, sin)
    return cast(Call(aten.cat.default, (parts, Var("cat_dim"))), Var("out_dtype"))


ROTARY_PARTS: tuple[Rule, ...] = (
    rope_of_parts,
    rope_of_parts_token_major,
    rope_of_neighbours,
    rope_of_neighbours_token_major,
    rope_of_neighbours_to_halves,
)
"""Each part of a head by itself."""
