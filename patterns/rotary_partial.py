"""Heads of which only the first elements rotate."""

from __future__ import annotations

import torch

from autodeploy.graph.nodes import value
from autodeploy.patterns.rotary import on_heads
from autodeploy.rewrite import Call, Expr, Match, Rule, Var, rewrite

aten = torch.ops.aten
rope_op = torch.ops.autodeploy.rope.default


def passes_the_rest(match: Match) -> str | None:
    """Decline unless the elements that do not rotate are those after the ones that do."""
    x, cos = value(match.x), value(match.cos)
    last = x.dim() - 1
    if (match.last, match.rest) != (last, last) or match.cat_dim % x.dim() != last:
        return "the parts are not of the last dimension"
    if match.split != cos.shape[-1] or match.end != x.shape[-1]:
        return f"the parts do not make up the {x.shape[-1]} elements of a head"
    return None


def _leading(x: Expr) -> Expr:
    return Call(aten.slice.Tensor, (x, Var("last"), 0, Var("split"), 1))


def _trailing(x: Expr) -> Expr:
    return Call(aten.slice.Tensor, (x, Var("rest"), Var("split"), Var("end"), 1))


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


PARTIAL_ROTARY: tuple[Rule, ...] = (rope_partial, rope_partial_token_major)
"""Built on the result of the others."""
