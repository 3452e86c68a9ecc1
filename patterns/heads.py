"""What models do to heads before attention, and the canonical operator does by itself: repeating and scaling them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from autodeploy.graph.nodes import is_call, value
from autodeploy.rewrite import Call, Computed, Expr, Match, Rule, Var, rewrite

aten = torch.ops.aten
attention_op = torch.ops.autodeploy.attention.default


def repeats_heads(match: Match) -> str | None:
    """Decline keys and values of which another dimension than the heads is repeated."""
    if match.dim % 4 != _place(match):
        return f"dimension {match.dim} is repeated, which is not of heads"
    return None


def expands_heads(match: Match) -> str | None:
    """Decline keys and values that are not repeated along a dimension of their own, then joined with the heads."""
    place = _place(match)
    for whole in (match.k, match.v):
        if value(whole).dim() != 5 or value(whole).shape[place + 1] != 1:
            return f"{whole} has no dimension to repeat its heads along"
        wide = next(user for user in whole.users if user in match.interior)
        joined = next(user for user in wide.users if user in match.interior)
        sizes = list(value(wide).shape)
        if not _alike(_without(value(whole).shape, place + 1), _without(sizes, place + 1)):
            return f"{wide.name} repeats more than heads"
        if not _alike([*sizes[:place], sizes[place] * sizes[place + 1], *sizes[place + 2 :]], value(joined).shape):
            return f"{joined.name} does not join heads with their copies"
    return None


def by_number(match: Match) -> str | None:
    """Decline a factor that is a tensor."""
    return f"{match.factor} is no number" if isinstance(match.factor, Node) else None


def _place(match: Match) -> int:
    """The dimension of heads, which come before tokens where the pattern swaps them."""
    return 1 if any(is_call(node, aten.transpose.int) for node in match.interior) else 2


def _without(sizes: Sequence[object], place: int) -> list[object]:
    return [*sizes[:place], *sizes[place + 1 :]]


def _alike(left: Sequence[object], right: Sequence[object]) -> bool:
    return list(map(str, left)) == list(map(str, right))


def _swapped(x: Expr) -> Call:
    return Call(aten.transpose.int, (x, 1, 2))


def _times(scale: float, factor: float) -> float:
    return scale * factor


def _repeated(x: Expr) -> Call:
    return Call(aten.repeat_interleave.self_int, (x, Var("count"), Var("dim"), Var("size")))


def _expanded(x: Expr, name: str) -> Call:
    return Call(aten.reshape.default, (Call(aten.expand.default, (x, Var(f"{name}_wide"))), Var(f"{name}_joined")))


def _attention(q: Expr, k: Expr, v: Expr, scale: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr) -> Call:
    return Call(attention_op, (q, k, v, scale, None, cap, sinks, None, causal, bias))


def _squeezed(q: Expr, k: Expr, v: Expr, scale: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr) -> Expr:
    keys, values = (Call(aten.squeeze.dim, (x, 3)) for x in (k, v))
    return _attention(q, keys, values, scale, cap, sinks, causal, bias)


def _squeezed_swapped(q: Expr, k: Expr, v: Expr, scale: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr) -> Expr:
    keys, values = (_swapped(Call(aten.squeeze.dim, (x, 2))) for x in (k, v))
    return _attention(q, keys, values, scale, cap, sinks, causal, bias)


def _once_swapped(q: Expr, k: Expr, v: Expr, scale: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr) -> Expr:
    return _attention(q, _swapped(k), _swapped(v), scale, cap, sinks, causal, bias)


def _in_scale(
    q: Expr, k: Expr, v: Expr, scale: Expr, factor: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr
) -> Expr:
    return _attention(_swapped(q), k, v, Computed(_times, (scale, factor)), cap, sinks, causal, bias)


@rewrite(_attention, where=repeats_heads)
def heads_repeated(q: Expr, k: Expr, v: Expr, scale: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr) -> Expr:
    """Keys and values repeated for the query heads that share them."""
    return _attention(q, _repeated(k), _repeated(v), scale, cap, sinks, causal, bias)


@rewrite(_once_swapped, where=repeats_heads)
def heads_repeated_swapped(
    q: Expr, k: Expr, v: Expr, scale: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr
) -> Expr:
    """Keys and values repeated where heads come before tokens."""
    return _attention(q, _swapped(_repeated(k)), _swapped(_repeated(v)), scale, cap, sinks, causal, bias)


@rewrite(_squeezed, where=expands_heads)
def heads_expanded(q: Expr, k: Expr, v: Expr, scale: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr) -> Expr:
    """Keys and values expanded along a dimension of their own, which is then joined with the heads (Falcon)."""
    return _attention(q, _expanded(k, "k"), _expanded(v, "v"), scale, cap, sinks, causal, bias)


@rewrite(_squeezed_swapped, where=expands_heads)
def heads_expanded_swapped(
    q: Expr, k: Expr, v: Expr, scale: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr
) -> Expr:
    """Keys and values expanded where heads come before tokens (transformers' `repeat_kv`)."""
    keys, values = _swapped(_expanded(k, "k")), _swapped(_expanded(v, "v"))
    return _attention(q, keys, values, scale, cap, sinks, causal, bias)


@rewrite(_in_scale, where=by_number)
def queries_scaled(
    q: Expr, k: Expr, v: Expr, scale: Expr, factor: Expr, cap: Expr, sinks: Expr, causal: Expr, bias: Expr
) -> Expr:
    """Queries that are scaled before they meet the keys."""
    return _attention(_swapped(q * factor), k, v, scale, cap, sinks, causal, bias)


HEADS: tuple[Rule, ...] = (
    heads_repeated,
    heads_repeated_swapped,
    heads_expanded,
    heads_expanded_swapped,
    queries_scaled,
)
"""Applied until none is left, after attention was found."""
