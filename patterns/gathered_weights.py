"""Products of rows with weights that are gathered for each row: the experts it chose, in one batched matmul."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autodeploy.graph.nodes import value
from autodeploy.rewrite import AnyOf, Call, Computed, Expr, Match, Rule, rewrite

aten = torch.ops.aten
expert_op = torch.ops.autodeploy.expert_linear.default


def _letters(equation: str) -> tuple[str, str, str]:
    """The letters of the gathered weight, of the rows and of the result; the weight has the most."""
    operands, result = equation.replace(" ", "").split("->")
    rows, weight = sorted(operands.split(","), key=len)
    return weight, rows, result


def is_transposed(equation: str) -> bool:
    """Whether the dimension that is summed up comes before the one that stays: `tkio`, and not `tkoi`."""
    weight, _, result = _letters(equation)
    return weight[-1] == result[-1]


def _sums_rows(letters_of_rows: Callable[[str], str]) -> Callable[[Match], str | None]:
    """Accept an equation that multiplies the last dimension of rows, of the given batch letters, by their weights."""

    def guard(match: Match) -> str | None:
        if "->" not in match.equation or match.equation.count(",") != 1 or "." in match.equation:
            return f"the equation {match.equation} does not name a result of two operands"
        weight, rows, result = _letters(match.equation)
        batch, summed, kept = weight[:-2], rows[-1], result[-1]
        if len(set(weight)) < len(weight) or result[:-1] != batch or {summed, kept} != set(weight[-2:]):
            return f"{match.equation} is no product of each row with its own weight"
        if rows[:-1] != letters_of_rows(batch) or value(match.weight).dim() != 3:
            return f"{match.equation} has rows of other dimensions than the choices"
        return None

    return guard


def _takes_one(dim: int) -> Callable[[Match], str | None]:
    """Accept a column (`dim` -1) or a row (-2) for each matrix that is chosen."""

    def guard(match: Match) -> str | None:
        x, selected = value(match.x), value(match.selected)
        if value(match.weight).dim() != 3 or x.dim() != selected.dim() + 2:
            return f"{tuple(x.shape)} do not have two dimensions more than the choices"
        if x.shape[dim] != 1:
            return f"{tuple(x.shape)} hold more than one row for each choice"
        fits = all(str(own) in ("1", str(size)) for own, size in zip(x.shape, selected.shape, strict=False))
        return None if fits else f"{tuple(x.shape)} do not spread to the choices {tuple(selected.shape)}"

    return guard


def _gathered(weight: Expr, selected: Expr) -> Expr:
    return Call(aten.index.Tensor, (weight, [selected]))


def _product(left: Expr, right: Expr) -> Expr:
    return AnyOf((Call(aten.matmul.default, (left, right)), Call(aten.bmm.default, (left, right))))


def _expert(x: Expr, selected: Expr, weight: Expr, transposed: Any) -> Expr:
    return Call(expert_op, (x, selected, weight, None, transposed))


def _by_equation(x: Expr, selected: Expr, weight: Expr, equation: Expr) -> Expr:
    return _expert(x, selected, weight, Computed(is_transposed, (equation,)))


def _rows_by_equation(x: Expr, selected: Expr, weight: Expr, equation: Expr) -> Expr:
    return _by_equation(Call(aten.unsqueeze.default, (x, -2)), selected, weight, equation)


def _of_columns(x: Expr, selected: Expr, weight: Expr) -> Expr:
    return Call(aten.unsqueeze.default, (_expert(Call(aten.squeeze.dim, (x, -1)), selected, weight, False), -1))


def _of_rows(x: Expr, selected: Expr, weight: Expr) -> Expr:
    return Call(aten.unsqueeze.default, (_expert(Call(aten.squeeze.dim, (x, -2)), selected, weight, True), -2))


@rewrite(_of_columns, where=_takes_one(-1))
def gathered_matmul(x: Expr, selected: Expr, weight: Expr) -> Expr:
    """`weight[selected] @ x`, rows as columns."""
    return _product(_gathered(weight, selected), x)


@rewrite(_of_rows, where=_takes_one(-2))
def gathered_row_matmul(x: Expr, selected: Expr, weight: Expr) -> Expr:
    """`x @ weight[selected]`, where the weight is stored as `[in, out]`."""
    return _product(x, _gathered(weight, selected))


@rewrite(_by_equation, where=_sums_rows(lambda batch: batch))
def gathered_einsum(x: Expr, selected: Expr, weight: Expr, equation: Expr) -> Expr:
    """`einsum("tkoi,tki->tko", weight[selected], x)`."""
    return Call(aten.einsum.default, (equation, [_gathered(weight, selected), x]))


@rewrite(_rows_by_equation, where=_sums_rows(lambda batch: batch[:-1]))
def gathered_einsum_of_rows(x: Expr, selected: Expr, weight: Expr, equation: Expr) -> Expr:
    """`einsum("tkoi,ti->tko", weight[selected], x)`: all experts of a row take the same."""
    return Call(aten.einsum.default, (equation, [_gathered(weight, selected), x]))


GATHERED_WEIGHTS: tuple[Rule, ...] = (gathered_matmul, gathered_row_matmul, gathered_einsum, gathered_einsum_of_rows)
