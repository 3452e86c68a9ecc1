"""Matmuls that sum nothing: products of a column and a row."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.graph.nodes import value
from autodeploy.rewrite import Call, Expr, Match, Rule, Var, cast, rewrite

aten = torch.ops.aten
_RANK_OF_HEADS = 4


def sums_one_product(match: Match) -> str | None:
    """Decline matmuls that sum, and those of heads: a query of one token or one number is still attention."""
    column, row = value(match.column), value(match.row)
    if not (_is_one(column, -1) and row.dim() > 1):
        return f"{tuple(column.shape)} @ {tuple(row.shape)} sums products"
    return "it may be attention of heads" if max(column.dim(), row.dim()) >= _RANK_OF_HEADS else None


def are_vectors(match: Match) -> str | None:
    """Decline frequencies that are no vector, and positions that are no row for each sequence."""
    freqs, positions = value(match.freqs), value(match.positions)
    if freqs.dim() == 1 and positions.dim() == 2:
        return None
    return f"frequencies {tuple(freqs.shape)} and positions {tuple(positions.shape)} are of other ranks than 1 and 2"


def _is_one(tensor: Tensor, dim: int) -> bool:
    size = tensor.shape[dim]
    return isinstance(size, int) and size == 1


def _product(column: Expr, row: Expr) -> Expr:
    return column * row


def _angles(freqs: Expr, positions: Expr, dtype: Expr) -> Expr:
    assert isinstance(dtype, Var)
    return cast(Call(aten.unsqueeze.default, (positions, 2)), dtype) * freqs


@rewrite(_angles, where=are_vectors)
def angles_by_matmul(freqs: Expr, positions: Expr, dtype: Expr) -> Expr:
    """Rotary angles as a column of frequencies times a row of positions, transposed (transformers 5.17)."""
    assert isinstance(dtype, Var)
    column = Call(aten.unsqueeze.default, (Call(aten.unsqueeze.default, (freqs, 0)), 2))
    row = cast(Call(aten.unsqueeze.default, (positions, 1)), dtype)
    return Call(aten.transpose.int, (Call(aten.matmul.default, (column, row)), 1, 2))


@rewrite(_product, where=sums_one_product)
def outer_product(column: Expr, row: Expr) -> Expr:
    """A matmul over a dimension of one element: each result is a single product."""
    return Call(aten.matmul.default, (column, row))


OUTER_PRODUCTS: tuple[Rule, ...] = (angles_by_matmul, outer_product)
