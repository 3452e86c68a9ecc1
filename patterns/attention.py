"""Attention as models write it; all becomes `attention` on token-major heads, with the mask as its bias."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from autodeploy.graph.nodes import value
from autodeploy.rewrite import Call, Computed, Expr, Match, Rule, Var, cast, rewrite

aten = torch.ops.aten
attention_op = torch.ops.autodeploy.attention.default


def is_attention(match: Match) -> str | None:
    """Decline unless queries, keys and values are of heads that fit, and the softmax is over the keys."""
    q, k, v = value(match.q), value(match.k), value(match.v)
    if match.dim not in (-1, 3):
        return f"the softmax is over dimension {match.dim}, not over the keys"
    if not q.dim() == k.dim() == v.dim() == 4:
        return "queries, keys and values are not of heads"
    shapes = f"queries {tuple(q.shape)}, keys {tuple(k.shape)} and values {tuple(v.shape)}"
    if not _alike(q.shape[0], k.shape[0], v.shape[0]) or not _alike(k.shape[1], v.shape[1]):
        return f"{shapes} differ in batch or heads"
    if not _alike(k.shape[3], v.shape[2]) or not (_alike(k.shape[1], q.shape[1]) or k.shape[1] == 1):
        return f"{shapes} do not fit"
    cap = match.bindings.get("softcap")
    return f"the soft cap {cap} is no number" if isinstance(cap, Node) else None


def joins_sinks(match: Match) -> str | None:
    """Decline unless one more score for each head is joined to the others, and dropped again."""
    if not isinstance(match.sinks, Node) or value(match.sinks).dim() != 1:
        return "what is joined to the scores is not one score for each head"
    if match.join not in (-1, 3) or (match.slice_dim, match.start, match.end, match.step) != (3, 0, -1, 1):
        return "the weight of the sink is not the one that is dropped"
    return is_attention(match)


def is_plain(match: Match) -> str | None:
    """Decline PyTorch's attention with dropout, with other than four dimensions, or causal over more keys."""
    q, k = value(match.q), value(match.k)
    if match.dropout != 0:
        return f"it drops weights with probability {match.dropout}"
    if q.dim() != 4:
        return f"queries {tuple(q.shape)} are not of heads"
    if match.causal and not _alike(q.shape[2], k.shape[2]):
        return "it is causal from the first key, and there are more keys than queries"
    return None


def _alike(*sizes: int | torch.SymInt) -> bool:
    return len({str(size) for size in sizes}) == 1


def _swapped(x: Expr) -> Call:
    """Heads before tokens as tokens before heads, and back."""
    return Call(aten.transpose.int, (x, 1, 2))


def _dtype(x: Any) -> torch.dtype:
    dtype: torch.dtype = (value(x) if isinstance(x, Node) else x).dtype
    return dtype


def _width_scale(q: Any, scale: float | None) -> float:
    """The scale that PyTorch takes when none is given."""
    like = value(q) if isinstance(q, Node) else q
    return float(int(like.shape[-1]) ** -0.5 if scale is None else scale)


def _attention(q: Expr, k: Expr, v: Expr, **options: object) -> Call:
    """Attention of heads before tokens, over keys `[B, H, D, T]`, that sees everything unless an option says else.

    All is of the values' dtype: queries and keys that a model made wider are not kept so in a cache.
    """
    q, k = (Call(aten.to.dtype, (x, Computed(_dtype, (v,)))) for x in (q, k))
    keys = _swapped(Call(aten.transpose.int, (k, 2, 3)))
    names = ("scale", "window", "softcap", "sinks", "alibi_slopes", "causal", "bias")
    given = {"scale": 1.0, "causal": False, **options}
    return _swapped(Call(attention_op, (_swapped(q), keys, _swapped(v), *(given.get(name) for name in names))))


def _plain(q: Expr, k: Expr, v: Expr) -> Expr:
    return _attention(q, k, v)


def _biased(q: Expr, k: Expr, v: Expr, bias: Expr) -> Expr:
    return _attention(q, k, v, bias=bias)


def _capped(q: Expr, k: Expr, v: Expr, softcap: Expr) -> Expr:
    return _attention(q, k, v, scale=softcap, softcap=softcap)


def _capped_biased(q: Expr, k: Expr, v: Expr, softcap: Expr, bias: Expr) -> Expr:
    return _attention(q, k, v, scale=softcap, softcap=softcap, bias=bias)


def _with_sinks(q: Expr, k: Expr, v: Expr, sinks: Expr, bias: Expr) -> Expr:
    return _attention(q, k, v, sinks=sinks, bias=bias)


def _built_in(q: Expr, k: Expr, v: Expr, bias: Expr, causal: Expr, scale: Expr) -> Expr:
    options = (Computed(_width_scale, (q, scale)), None, None, None, None, causal, bias)
    return _swapped(Call(attention_op, (_swapped(q), _swapped(k), _swapped(v), *options)))


def _scores(q: Expr, k: Expr) -> Expr:
    """The products of queries and keys, in a dtype of their own."""
    return Call(aten.matmul.default, (cast(q, Var("score_dtype")), cast(k, Var("score_dtype"))))


def _cap(x: Expr, cap: Expr) -> Expr:
    """Scores that were divided by the cap, as any other factor of theirs, and are bounded by it."""
    return Call(aten.tanh.default, (x,)) * cap


def _weights(scores: Expr) -> Expr:
    """The softmax of scores, in a dtype of its own."""
    return Call(aten.softmax.int, (cast(scores, Var("softmax_dtype")), Var("dim"), Var("weight_dtype")))


def _mixed(weights: Expr, v: Expr) -> Expr:
    return Call(aten.matmul.default, (cast(weights, Var("value_dtype")), v))


@rewrite(_plain, where=is_attention)
def attention(q: Expr, k: Expr, v: Expr) -> Expr:
    """Attention to all keys (Vaswani et al., 2017)."""
    return _mixed(_weights(_scores(q, k)), v)


@rewrite(_biased, where=is_attention)
def attention_biased(q: Expr, k: Expr, v: Expr, bias: Expr) -> Expr:
    """Attention with something added to its scores: a mask, ALiBi, or a bias that was learned."""
    return _mixed(_weights(_scores(q, k) + bias), v)


@rewrite(_capped, where=is_attention)
def attention_capped(q: Expr, k: Expr, v: Expr, softcap: Expr) -> Expr:
    """Attention with bounded scores."""
    return _mixed(_weights(_cap(_scores(q, k), softcap)), v)


@rewrite(_capped_biased, where=is_attention)
def attention_capped_biased(q: Expr, k: Expr, v: Expr, softcap: Expr, bias: Expr) -> Expr:
    """Attention with bounded scores, to which something is added (Gemma 2)."""
    return _mixed(_weights(_cap(_scores(q, k), softcap) + bias), v)


@rewrite(_with_sinks, where=joins_sinks)
def attention_with_sinks(q: Expr, k: Expr, v: Expr, sinks: Expr, bias: Expr) -> Expr:
    """Attention with one more score for each head, that of a key without a value (gpt-oss)."""
    column = Call(aten.expand.default, (Call(aten.reshape.default, (sinks, Var("column"))), Var("columns")))
    joined = Call(aten.cat.default, ([_scores(q, k) + bias, column], Var("join")))
    bounds = (Var("slice_dim"), Var("start"), Var("end"), Var("step"))
    return _mixed(cast(Call(aten.slice.Tensor, (_weights(joined), *bounds)), Var("sliced_dtype")), v)


@rewrite(_built_in, where=is_plain)
def attention_built_in(q: Expr, k: Expr, v: Expr, bias: Expr, causal: Expr, scale: Expr) -> Expr:
    """PyTorch's own `scaled_dot_product_attention`, with or without a mask."""
    options = (bias, Var("dropout"), causal, scale, Var("enable_gqa"))
    return Call(aten.scaled_dot_product_attention.default, (q, k, v, *options))


ATTENTIONS: tuple[Rule, ...] = (
    attention_biased,
    attention,
    attention_capped_biased,
    attention_capped,
    attention_with_sinks,
    attention_built_in,
)
"""Attention once its scores are in the form that `SCORES` brings them to."""
