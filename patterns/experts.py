"""The terms of a mixture of experts written by hand, one for each expert, and products with gathered weights."""

from __future__ import annotations

import torch

from autodeploy.rewrite import AnyOf, Call, Expr, Var, cast
from autodeploy.rewrite.expression import getitem

aten = torch.ops.aten

_SELECTED, _WEIGHTS, _EXPERT = Var("selected"), Var("weights"), Var("expert")
_HIT = Call(aten.eq.Scalar, (_SELECTED, _EXPERT))


def _one_hot(selected: Expr) -> Expr:
    return Call(aten.one_hot.default, (selected, Var("num_experts")))


def _unsqueezed(x: Expr) -> Expr:
    return Call(aten.unsqueeze.default, (x, Var("last")))


def _places(rows_first: bool) -> tuple[Expr, Expr]:
    """Rows that chose the expert, and at which of their places: from `[T, k]`, or from `[k, T]` (Mixtral)."""
    by_expert = Call(aten.transpose.int, (_one_hot(_SELECTED), 0, 2))
    mask = _HIT if rows_first else Call(aten.select.int, (by_expert, 0, _EXPERT))
    found = AnyOf((Call(aten.where.default, (mask,)), Call(aten.nonzero_numpy.default, (mask,))))
    first, second = getitem(found, 0), getitem(found, 1)
    return (first, second) if rows_first else (second, first)


def _sparse_term(rows_first: bool) -> Expr:
    """An expert's results times their weights, added to the rows that chose it."""
    rows, slots = _places(rows_first)
    weight = AnyOf(
        (
            Call(aten.index.Tensor, (_unsqueezed(_WEIGHTS), [rows, slots])),
            _unsqueezed(Call(aten.index.Tensor, (_WEIGHTS, [rows, slots]))),
        )
    )
    term = cast(Var("result") * weight, Var("out_dtype"))
    total = Var("total")
    return AnyOf(
        (
            Call(aten.index_add.default, (total, 0, rows, term)),
            Call(aten.index_put.default, (total, [rows], Call(aten.index.Tensor, (total, [rows])) + term)),
        )
    )


def _dense_term() -> Expr:
    """An expert's results for every row, times a column that is zero where the row did not choose it."""
    hit = cast(_HIT, Var("hit_dtype"))
    chosen = AnyOf((_WEIGHTS * hit, Call(aten.where.ScalarOther, (_HIT, _WEIGHTS, 0))))
    total = AnyOf(
        (Call(aten.sum.dim_IntList, (chosen, [-1], True)), _unsqueezed(Call(aten.sum.dim_IntList, (chosen, [-1]))))
    )
    table, dim = Var("table"), Var("dim")
    column = AnyOf(
        (
            Call(aten.slice.Tensor, (table, dim, _EXPERT, Var("end"), 1)),
            _unsqueezed(Call(aten.select.int, (table, dim, _EXPERT))),
        )
    )
    return cast(Var("result") * cast(AnyOf((total, column)), Var("column_dtype")), Var("out_dtype"))


SPARSE_TERM: Expr = AnyOf((_sparse_term(rows_first=True), _sparse_term(rows_first=False)))
"""Binds `total`, `result`, `selected [T, k]`, `weights [T, k]` and `expert`."""

DENSE_TERM: Expr = _dense_term()
"""Binds `result`, and either `selected`, `weights` and `expert`, or `table [T, E]` and `expert`."""

GATHERED_ROWS: Expr = AnyOf(
    (
        Call(aten.index.Tensor, (Var("x"), [Var("rows")])),
        Call(
            aten.reshape.default,
            (Call(aten.index.Tensor, (Call(aten.unsqueeze.default, (Var("x"), 0)), [None, Var("rows")])), Var("shape")),
        ),
    )
)
"""The rows `x[rows]` that an expert computes."""

SPREAD_WEIGHTS: Expr = AnyOf(
    (
        Call(aten.scatter.src, (Var("zeros"), Var("dim"), _SELECTED, _WEIGHTS)),
        Call(
            aten.sum.dim_IntList,
            (cast(_one_hot(_SELECTED), Var("hit_dtype")) * _unsqueezed(_WEIGHTS), [Var("dim")]),
        ),
    )
)
"""A table `[T, E]` made of the weights of the k chosen experts of each row."""
