"""The scores of attention as models write them, brought to one form: `matmul(q * scale, k) + bias`, then softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from autodeploy.graph.evaluate import reads_data
from autodeploy.graph.masks import HIDDEN
from autodeploy.graph.nodes import is_call, value
from autodeploy.rewrite import AnyOf, Call, Computed, Expr, Match, Rule, Var, cast, rewrite
from autodeploy.rewrite.expression import getitem

aten = torch.ops.aten

_ON_SCORES = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.tanh.default,
    aten.masked_fill.Scalar,
    aten.where.ScalarOther,
    aten.clamp_min.default,
    aten.to.dtype,
    aten.cat.default,
    aten.matmul.default,
    torch.ops.autodeploy.soft_cap.default,
)
_FAR = 8  # operators between a product of queries and keys and its softmax


def meets_softmax(node: Node) -> bool:
    """Whether a softmax over heads follows `node`, with nothing between that is not done to scores."""
    reached = [node] if value(node).dim() == 4 else []
    for _ in range(_FAR):
        if any(is_call(one, aten.softmax.int) for one in reached):
            return True
        reached = [user for one in reached for user in one.users if is_call(user, aten.softmax.int, *_ON_SCORES)]
    return False


def is_of_scores(node: Node) -> bool:
    """Whether `node` is computed from tokens, and a softmax over heads follows it."""
    return meets_softmax(node) and reads_data(node)


def are_scores(match: Match) -> str | None:
    """Decline what no softmax over heads follows, and what a mask is made of."""
    if not meets_softmax(match.root):
        return "no softmax over heads follows"
    return None if reads_data(match.root) else "it depends on positions alone, as a mask does"


def is_low(match: Match) -> str | None:
    """Decline a value that does not hide a score."""
    return f"a score of {match.low} is not hidden" if isinstance(match.low, Node) or match.low > HIDDEN else None


def hides(match: Match) -> str | None:
    """Decline a value that does not hide a score, and what are no scores."""
    return is_low(match) or are_scores(match)


def along_last(match: Match) -> str | None:
    """Decline a softmax over another dimension than the one whose maximum is taken."""
    last = match.dim in (-1, value(match.x).dim() - 1)
    return None if last else f"the softmax is over dimension {match.dim}, the maximum over the last"


def adds_positions(match: Match) -> str | None:
    """Decline terms that depend on the tokens themselves."""
    if not all(isinstance(one, Node) for one in (match.first, match.second)):
        return "a number is added"
    if not meets_softmax(match.root):
        return "no softmax over heads follows"
    if reads_data(match.first) or reads_data(match.second):
        return "what is added depends on the tokens"
    return None if reads_data(match.x) else "the scores are the other term"


def by_number(match: Match) -> str | None:
    """Decline a factor that is a tensor."""
    return f"{match.factor} is no number" if isinstance(match.factor, Node) else are_scores(match)


def widens(match: Match) -> str | None:
    """Decline a conversion that loses something."""
    q = value(match.q).dtype
    wider = match.dtype.is_floating_point and torch.promote_types(q, match.dtype) == match.dtype
    return are_scores(match) if wider else f"{match.dtype} does not hold all of {q}"


def _dtype(x: Any) -> torch.dtype:
    like = value(x) if isinstance(x, Node) else x
    dtype: torch.dtype = like.dtype
    return dtype


def _reciprocal(number: float) -> float:
    return 1.0 / number


def _choice(mask: Expr, seen: object, unseen: object, like: Expr) -> Call:
    """One number or another, in the dtype of `like`."""
    return Call(aten.to.dtype, (Call(aten.where.Scalar, (mask, seen, unseen)), Computed(_dtype, (like,))))


def _filled(x: Expr, mask: Expr, low: Expr) -> Expr:
    return x + _choice(mask, low, 0.0, x)


def _chosen(x: Expr, mask: Expr, low: Expr) -> Expr:
    return x + _choice(mask, 0.0, low, x)


def _softmax(x: Expr, dim: Expr, dtype: Expr) -> Call:
    return Call(aten.softmax.int, (x, dim, dtype))


def _joined(x: Expr, first: Expr, second: Expr) -> Expr:
    return x + (first + second)


def _distributed(x: Expr, bias: Expr, factor: Expr) -> Expr:
    return x * factor + bias * factor


def _divided(x: Expr, bias: Expr, factor: Expr) -> Expr:
    return x / factor + bias / factor


def _scaled_first(q: Expr, k: Expr, factor: Expr, dtype: Expr) -> Expr:
    return Call(aten.matmul.default, (Call(aten.to.dtype, (q * factor, dtype)), k))


def _divided_first(q: Expr, k: Expr, factor: Expr, dtype: Expr) -> Expr:
    return _scaled_first(q, k, Computed(_reciprocal, (factor,)), dtype)


def _cast_operands(q: Expr, k: Expr, dtype: Expr) -> Expr:
    return Call(aten.matmul.default, (Call(aten.to.dtype, (q, dtype)), Call(aten.to.dtype, (k, dtype))))


def _cast_last(q: Expr, k: Expr, dtype: Expr, dim0: Expr, dim1: Expr) -> Expr:
    return Call(aten.matmul.default, (q, Call(aten.to.dtype, (Call(aten.transpose.int, (k, dim0, dim1)), dtype))))


def _less_largest(x: Expr) -> Expr:
    return x - AnyOf((Call(aten.amax.default, (x, [-1], True)), getitem(Call(aten.max.dim, (x, -1, True)), 0)))


@rewrite(_filled, where=hides)
def scores_filled(x: Expr, mask: Expr, low: Expr) -> Expr:
    """Scores replaced by a very low number where a mask is set."""
    return Call(aten.masked_fill.Scalar, (x, mask, low))


@rewrite(_chosen, where=hides)
def scores_chosen(x: Expr, mask: Expr, low: Expr) -> Expr:
    """Scores kept where a mask is set, and a very low number elsewhere (GPT-Neo)."""
    return Call(aten.where.ScalarOther, (mask, x, low))


@rewrite(_softmax, where=is_low)
def scores_bounded(x: Expr, dim: Expr, dtype: Expr, low: Expr) -> Expr:
    """Scores kept above a very low number, which hides nothing that was seen (XGLM)."""
    return _softmax(Call(aten.clamp_min.default, (x, low)), dim, dtype)


@rewrite(_softmax, where=along_last)
def scores_shifted(x: Expr, dim: Expr, dtype: Expr) -> Expr:
    """Scores less their maximum, which a softmax does by itself (gpt-oss)."""
    return _softmax(_less_largest(x), dim, dtype)


@rewrite(_joined, where=adds_positions)
def scores_biased_twice(x: Expr, first: Expr, second: Expr) -> Expr:
    """Scores to which two things are added, one after the other."""
    return (x + first) + second


@rewrite(_distributed, where=by_number)
def biased_scores_scaled(x: Expr, bias: Expr, factor: Expr) -> Expr:
    """Scores that are scaled after something was added (Falcon with ALiBi)."""
    return (x + bias) * factor


@rewrite(_divided, where=by_number)
def biased_scores_divided(x: Expr, bias: Expr, factor: Expr) -> Expr:
    """Scores that are divided after something was added (CodeGen)."""
    return (x + bias) / factor


@rewrite(_scaled_first, where=by_number)
def scores_scaled(q: Expr, k: Expr, factor: Expr, dtype: Expr) -> Expr:
    """Scores times a number."""
    return Call(aten.matmul.default, (cast(q, Var("dtype")), k)) * factor


@rewrite(_divided_first, where=by_number)
def scores_divided(q: Expr, k: Expr, factor: Expr, dtype: Expr) -> Expr:
    """Scores over a number."""
    return Call(aten.matmul.default, (cast(q, Var("dtype")), k)) / factor


@rewrite(_cast_operands, where=widens)
def scores_cast(q: Expr, k: Expr, dtype: Expr) -> Expr:
    """Scores converted to a wider dtype, in which they may as well be computed (Falcon with ALiBi)."""
    return Call(aten.to.dtype, (Call(aten.matmul.default, (q, k)), dtype))


@rewrite(_cast_last, where=are_scores)
def keys_cast_first(q: Expr, k: Expr, dtype: Expr, dim0: Expr, dim1: Expr) -> Expr:
    """Keys converted before they are transposed (GPT-J)."""
    return Call(aten.matmul.default, (q, Call(aten.transpose.int, (Call(aten.to.dtype, (k, dtype)), dim0, dim1))))


SCORES: tuple[Rule, ...] = (
    scores_filled,
    scores_chosen,
    scores_bounded,
    scores_shifted,
    biased_scores_scaled,
    biased_scores_divided,
    scores_biased_twice,
    scores_scaled,
    scores_divided,
    scores_cast,
    keys_cast_first,
)
"""Applied until none is left: each undoes one operator."""
