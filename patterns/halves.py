"""The two halves of a last dimension, and its even and odd elements, in the ways in which models take them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from autodeploy.graph.nodes import value
from autodeploy.rewrite import AnyOf, Call, Expr, Match, Var
from autodeploy.rewrite.expression import getitem

aten = torch.ops.aten


def first_half(x: Expr) -> Expr:
    """The first half of x: a slice, or the first of two chunks."""
    return AnyOf((_slice(x, 0, Var("half")), *(getitem(parts, 0) for parts in _chunks(x))))


def second_half(x: Expr) -> Expr:
    """The second half of x."""
    return AnyOf((_slice(x, Var("half"), Var("end")), *(getitem(parts, 1) for parts in _chunks(x))))


def even(x: Expr) -> Expr:
    """Elements 0, 2, 4 … of x: a slice, or the first of neighbours that a reshape put into pairs."""
    return _neighbour(x, 0)


def odd(x: Expr) -> Expr:
    """Elements 1, 3, 5 … of x."""
    return _neighbour(x, 1)


def _chunks(x: Expr) -> tuple[Expr, Expr]:
    halved = Call(aten.chunk.default, (x, 2, Var("part_dim")))
    return halved, Call(aten.split.Tensor, (x, Var("half"), Var("part_dim")))


def _neighbour(x: Expr, index: int) -> Expr:
    pairs = Call(aten.reshape.default, (x, Var("pair_shape")))
    return AnyOf((_slice(x, index, Var("end"), 2), neighbour_of_pair(pairs, index)))


def neighbour_of_pair(pairs: Expr, index: int) -> Expr:
    """One part of pairs: a selection, or the result of an unbind."""
    unbound = getitem(Call(aten.unbind.int, (pairs, Var("pair_dim"))), index)
    return AnyOf((Call(aten.select.int, (pairs, Var("pair_dim"), index)), unbound))


def _slice(x: Expr, start: Expr | int, end: Expr | int, step: int = 1) -> Call:
    return Call(aten.slice.Tensor, (x, Var("last"), start, end, step))


def halves_reason(match: Match) -> str | None:
    """None where the parts of `match.x` that the pattern took are the halves of its last dimension."""
    x, bound = value(match.x), match.bindings
    for name in ("last", "part_dim", "cat_dim"):
        if name in bound and bound[name] % x.dim() != x.dim() - 1:
            return "the halves are not of the last dimension"
    half, end = bound.get("half", x.shape[-1] // 2), bound.get("end", x.shape[-1])
    if 2 * half != x.shape[-1] or end != x.shape[-1]:
        return f"the halves [0, {half}) and [{half}, {end}) are not equal parts of {x.shape[-1]}"
    return None


def even_odd_reason(match: Match) -> str | None:
    """None where the parts of `match.x` that the pattern took are the even and odd elements of its last dimension."""
    x, bound = value(match.x), match.bindings
    if bound.get("last", x.dim() - 1) != x.dim() - 1 or bound.get("end", x.shape[-1]) != x.shape[-1]:
        return "the pairs are not of the last dimension"
    if x.shape[-1] % 2:
        return f"{x.shape[-1]} elements do not make pairs"
    if "pair_shape" in bound and not is_in_pairs(bound["pair_shape"], x):
        return "the reshape does not put neighbours of the last dimension into pairs"
    return None if bound.get("pair_dim", -1) in (-1, x.dim()) else "the parts are not those of the pairs"


def is_in_pairs(shape: Sequence[int | Node], x: Tensor) -> bool:
    """Whether `shape` is that of x, but for its last dimension, which is split into pairs."""
    if len(shape) != x.dim() + 1 or shape[-1] != 2 or shape[-2] not in (-1, x.shape[-1] // 2):
        return False
    return all(_size(given) in ("-1", str(own)) for given, own in zip(shape[:-2], x.shape[:-1], strict=True))


def _size(size: int | Node) -> str:
    return str(size.meta["val"]) if isinstance(size, Node) else str(size)
