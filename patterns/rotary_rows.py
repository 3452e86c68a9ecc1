"""Rotary position embeddings of rows that one reshape makes into pairs, as real or as complex numbers."""

from __future__ import annotations

import torch

from autodeploy.graph.nodes import value
from autodeploy.patterns.halves import is_in_pairs, neighbour_of_pair
from autodeploy.patterns.rotary import HEADS_FIRST, TOKENS_FIRST, angles_reason, on_heads, shared_reason
from autodeploy.patterns.rotary_parts import each_twice, token_major_pairs, turned_parts
from autodeploy.rewrite import Call, Expr, Match, Rule, Var, cast, rewrite

aten = torch.ops.aten
rope_op = torch.ops.autodeploy.rope.default


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


def _by_pairs(x: Expr, cos: Expr, sin: Expr, shape: Expr) -> Expr:
    pairs = Call(aten.reshape.default, (cast(x, Var("compute_dtype")), Var("pair_shape")))
    parts = turned_parts(neighbour_of_pair(pairs, 0), neighbour_of_pair(pairs, 1), cos, sin)
    return cast(Call(aten.reshape.default, (Call(aten.stack.default, (parts, -1)), shape)), Var("out_dtype"))


def _product(x: Expr, turns: Expr, shape: Expr) -> Expr:
    """Neighbours of x as complex numbers, each multiplied with one that turns it."""
    pairs = Call(aten.reshape.default, (cast(x, Var("compute_dtype")), Var("pair_shape")))
    turned = Call(aten.view_as_real.default, (Call(aten.view_as_complex.default, (pairs,)) * turns,))
    return cast(Call(aten.reshape.default, (turned, shape)), Var("out_dtype"))


def _component(turns: Expr, index: int, heads_dim: int) -> Expr:
    return each_twice(Call(aten.select.int, (Call(aten.view_as_real.default, (turns,)), -1, index)), heads_dim)


def _pairs_of_rows(x: Expr, cos: Expr, sin: Expr, shape: Expr) -> Expr:
    return token_major_pairs(Call(aten.reshape.default, (x, shape)), cos, sin)


def _complex(x: Expr, turns: Expr, shape: Expr) -> Expr:
    x = Call(aten.reshape.default, (x, shape))
    return on_heads(x, _component(turns, 0, HEADS_FIRST), _component(turns, 1, HEADS_FIRST), interleaved=True)


def _complex_rows(x: Expr, turns: Expr, shape: Expr) -> Expr:
    heads = Call(aten.reshape.default, (x, shape))
    return Call(rope_op, (heads, _component(turns, 0, TOKENS_FIRST), _component(turns, 1, TOKENS_FIRST), True))


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


ROTARY_ROWS: tuple[Rule, ...] = (rope_of_pairs_of_rows, rope_complex, rope_complex_of_rows)
"""What takes pairs from rows or heads by a reshape."""
