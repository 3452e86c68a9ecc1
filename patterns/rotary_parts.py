"""Rotary position embeddings that are written part after part, or in complex numbers, and heads that turn in part.

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
    is_in_pairs,
    neighbour_of_pair,
    odd,
    second_half,
)
from autodeploy.patterns.rotary import (
    HEADS_FIRST,
    TOKENS_FIRST,
    angles_reason,
    fits_heads,
    on_heads,
    per_token,
    shared_reason,
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


def turns_pairs_of_rows(match: Match) -> str | None:
    """Decline unless rows are reshaped into pairs of token-major heads, which turn by one angle a pair."""
    return _pairs_reason(match) or angles_reason(match, TOKENS_FIRST, int(value(match.root).shape[-1]) // 2)


def turns_complex(match: Match) -> str | None:
    """Decline unless complex angles are the same for every head, heads before tokens."""
    return _complex_reason(match, HEADS_FIRST)


def turns_complex_rows(match: Match) -> str | None:
    """Decline unless rows are reshaped into token-major heads, and complex angles are the same for every head."""
    return _complex_reason(match, TOKENS_FIRST)


def _pairs_reason(match: Match) -> str | None:
    root, x = value(match.root), value(match.x)
    if root.dim() != 4 or not is_in_pairs(match.pair_shape, root):
        return f"the pairs are not neighbours in heads {tuple(root.shape)}"
    if match.bindings.get("pair_dim", -1) not in (-1, root.dim()):
        return "the parts are not those of the pairs"
    return None if root.dtype == x.dtype else "the result is of another dtype than the input"


def _complex_reason(match: Match, heads_dim: int) -> str | None:
    root, turns = value(match.root), value(match.turns)
    if not turns.is_complex() or turns.shape[-1] != root.shape[-1] // 2:
        return f"the factors {tuple(turns.shape)} are not one for each pair of {tuple(root.shape)}"
    return _pairs_reason(match) or shared_reason(turns, heads_dim)


def passes_the_rest(match: Match) -> str | None:
    """Decline unless the elements that do not rotate are those after the ones that do."""
    x, cos = value(match.x), value(match.cos)
    last = x.dim() - 1
    if (match.last, match.rest) != (last, last) or match.cat_dim % x.dim() != last:
        return "the parts are not of the last dimension"
    if match.split != cos.shape[-1] or match.end != x.shape[-1]:
        return f"the parts do not make up the {x.shape[-1]} elements of a head"
    return None


def _turned(first: Expr, second: Expr, cos: Expr, sin: Expr) -> list[Expr]:
    parts = (first * cos - second * sin, second * cos + first * sin)
    return [cast(part, Var("part_dtype")) for part in parts]


def _by_halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    h = cast(x, Var("compute_dtype"))
    parts = _turned(first_half(h), second_half(h), cos, sin)
    return cast(Call(aten.cat.default, (parts, Var("cat_dim"))), Var("out_dtype"))


def _by_neighbours(x: Expr, cos: Expr, sin: Expr) -> Expr:
    h = cast(x, Var("compute_dtype"))
    parts = Call(aten.stack.default, (_turned(even(h), odd(h), cos, sin), -1))
    return cast(Call(aten.reshape.default, (parts, Var("shape"))), Var("out_dtype"))


def _by_pairs(x: Expr, cos: Expr, sin: Expr, shape: Expr) -> Expr:
    pairs = Call(aten.reshape.default, (cast(x, Var("compute_dtype")), Var("pair_shape")))
    parts = _turned(neighbour_of_pair(pairs, 0), neighbour_of_pair(pairs, 1), cos, sin)
    return cast(Call(aten.reshape.default, (Call(aten.stack.default, (parts, -1)), shape)), Var("out_dtype"))


def _product(x: Expr, turns: Expr, shape: Expr) -> Expr:
    """Neighbours of x as complex numbers, each multiplied with one that turns it."""
    pairs = Call(aten.reshape.default, (cast(x, Var("compute_dtype")), Var("pair_shape")))
    turned = Call(aten.view_as_real.default, (Call(aten.view_as_complex.default, (pairs,)) * turns,))
    return cast(Call(aten.reshape.default, (turned, shape)), Var("out_dtype"))


def _twice(angles: Expr, heads_dim: int) -> Expr:
    return per_token(Call(aten.cat.default, ([angles, angles], -1)), heads_dim)


def _each_twice(angles: Expr, heads_dim: int) -> Expr:
    return per_token(Call(aten.repeat_interleave.self_int, (angles, 2, -1)), heads_dim)


def _component(turns: Expr, index: int, heads_dim: int) -> Expr:
    return _each_twice(Call(aten.select.int, (Call(aten.view_as_real.default, (turns,)), -1, index)), heads_dim)


def _halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return on_heads(x, _twice(cos, HEADS_FIRST), _twice(sin, HEADS_FIRST), interleaved=False)


def _token_major_halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return Call(rope_op, (x, _twice(cos, TOKENS_FIRST), _twice(sin, TOKENS_FIRST), False))


def _pairs(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return on_heads(x, _each_twice(cos, HEADS_FIRST), _each_twice(sin, HEADS_FIRST), interleaved=True)


def _token_major_pairs(x: Expr, cos: Expr, sin: Expr) -> Expr:
    return Call(rope_op, (x, _each_twice(cos, TOKENS_FIRST), _each_twice(sin, TOKENS_FIRST), True))


def _pairs_of_rows(x: Expr, cos: Expr, sin: Expr, shape: Expr) -> Expr:
    return _token_major_pairs(Call(aten.reshape.default, (x, shape)), cos, sin)


def _gathered(x: Expr, cos: Expr, sin: Expr) -> Expr:
    neighbours = [Call(aten.slice.Tensor, (x, -1, index, sys.maxsize, 2)) for index in (0, 1)]
    return _halves(Call(aten.cat.default, (neighbours, -1)), cos, sin)


def _complex(x: Expr, turns: Expr, shape: Expr) -> Expr:
    x = Call(aten.reshape.default, (x, shape))
    return on_heads(x, _component(turns, 0, HEADS_FIRST), _component(turns, 1, HEADS_FIRST), interleaved=True)


def _complex_rows(x: Expr, turns: Expr, shape: Expr) -> Expr:
    heads = Call(aten.reshape.default, (x, shape))
    return Call(rope_op, (heads, _component(turns, 0, TOKENS_FIRST), _component(turns, 1, TOKENS_FIRST), True))


def _leading(x: Expr) -> Expr:
    return Call(aten.slice.Tensor, (x, Var("last"), 0, Var("split"), 1))


def _trailing(x: Expr) -> Expr:
    return Call(aten.slice.Tensor, (x, Var("rest"), Var("split"), Var("end"), 1))


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


@rewrite(_token_major_pairs, where=turns_neighbours_token_major)
def rope_of_neighbours_token_major(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate, each part computed by itself, tokens before heads (RoFormer's code)."""
    return _by_neighbours(x, cos, sin)


@rewrite(_gathered, where=gathers_neighbours)
def rope_of_neighbours_to_halves(x: Expr, cos: Expr, sin: Expr) -> Expr:
    """Neighbouring pairs that rotate and end up as halves (DeepSeek V3, Mistral Large)."""
    h = cast(x, Var("compute_dtype"))
    parts = _turned(even(h), odd(h), cos, sin)
    return cast(Call(aten.cat.default, (parts, Var("cat_dim"))), Var("out_dtype"))


@rewrite(_pairs_of_rows, where=turns_pairs_of_rows)
def rope_of_pairs_of_rows(x: Expr, cos: Expr, sin: Expr, shape: Expr) -> Expr:
    """Pairs that rotate, taken from rows that become token-major heads in the same reshape (gpt-fast, torchtune)."""
    return _by_pairs(x, cos, sin, shape)


@rewrite(_complex, where=turns_complex)
def rope_complex(x: Expr, turns: Expr, shape: Expr) -> Expr:
    """Neighbouring pairs as complex numbers, heads before tokens (DeepSeek V2, whose one key head is of rows)."""
    return _product(x, turns, shape)


@rewrite(_complex_rows, where=turns_complex_rows)
def rope_complex_of_rows(x: Expr, turns: Expr, shape: Expr) -> Expr:
    """Pairs of rows that become token-major heads, as complex numbers (Llama's own code, Llama 4)."""
    return _product(x, turns, shape)


@rewrite(on_heads, where=passes_the_rest)
def rope_partial(x: Expr, cos: Expr, sin: Expr, interleaved: Expr) -> Expr:
    """A head of which only the first elements rotate (GPT-NeoX, Phi, StableLM, GLM)."""
    first = Call(aten.transpose.int, (_leading(x), 1, 2))
    turned = Call(aten.transpose.int, (Call(rope_op, (first, cos, sin, interleaved)), 1, 2))
    return Call(aten.cat.default, ([turned, _trailing(x)], Var("cat_dim")))


@rewrite(rope_op, where=passes_the_rest)
def rope_partial_token_major(x: Expr, cos: Expr, sin: Expr, interleaved: Expr) -> Expr:
    """A token-major head of which only the first elements rotate (GPT-J, CodeGen)."""
    turned = Call(rope_op, (_leading(x), cos, sin, interleaved))
    return Call(aten.cat.default, ([turned, _trailing(x)], Var("cat_dim")))


ROTARY_PARTS: tuple[Rule, ...] = (
    rope_of_parts,
    rope_of_parts_token_major,
    rope_of_neighbours,
    rope_of_neighbours_token_major,
    rope_of_neighbours_to_halves,
    rope_of_pairs_of_rows,
    rope_complex,
    rope_complex_of_rows,
)
"""Each part of a head by itself."""

PARTIAL_ROTARY: tuple[Rule, ...] = (rope_partial, rope_partial_token_major)
"""Built on the result of the others."""
