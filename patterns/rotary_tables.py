"""The cosines and sines of rotary position embeddings, as models compute them of their positions.

To be applied once equal nodes are merged: both tables then have their angles in common.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from autodeploy.graph.nodes import value
from autodeploy.patterns.rotary import HEADS_FIRST
from autodeploy.rewrite import Call, Expr, Match, Rule, Var, cast, getitem, rewrite

aten = torch.ops.aten
tables_op = torch.ops.autodeploy.rotary_tables.default
Pair = tuple[Expr, Expr]


def are_of_positions(match: Match) -> str | None:
    """Decline tables that are not of integer positions and a vector of frequencies, computed in float32."""
    positions, frequencies = value(match.positions), value(match.frequencies)
    if positions.is_floating_point() or frequencies.dim() != 1:
        return f"{positions.dtype} positions {tuple(positions.shape)} times {tuple(frequencies.shape)} are no angles"
    if match.compute_dtype != torch.float32 or frequencies.dtype != torch.float32:
        return f"the angles are computed in {match.compute_dtype}, not in float32"
    if match.new_dim not in (-1, positions.dim()):
        return "the frequencies have no dimension of their own"
    doubled = match.bindings.get("cat_dim", -1) in (-1, positions.dim())
    return None if doubled else "the angles are not doubled along the last dimension"


def are_scaled(match: Match) -> str | None:
    """Likewise, and decline a factor that is no number."""
    is_number = isinstance(match.scaling, (int, float))
    return are_of_positions(match) if is_number else f"the factor {match.scaling} is no number"


def are_doubled(match: Match) -> str | None:
    """Likewise, and decline tables that are not doubled along their last dimension."""
    doubled = match.heads_cat_dim in (-1, value(match.positions).dim() + 1)
    return are_scaled(match) if doubled else "the cosines are not doubled along the last dimension"


def are_of_first_halves(match: Match) -> str | None:
    """Decline what is not spread from the first half of both tables."""
    last, pairs = value(match.positions).dim() + 1, value(match.frequencies).shape[0]
    halved = match.half == pairs and match.last in (-1, last)
    return are_of_positions(match) if halved else "what is spread is not the first half of a table"


def _angles(positions: Expr, frequencies: Expr) -> Expr:
    column = Call(aten.unsqueeze.default, (positions, Var("new_dim")))
    return cast(column, Var("compute_dtype")) * frequencies


def _halves(x: Expr, dim: str) -> Expr:
    return Call(aten.cat.default, ([x, x], Var(dim)))


def _pairs(x: Expr) -> Expr:
    return Call(aten.repeat_interleave.self_int, (x, 2, -1))


def _plain(angles: Expr) -> Pair:
    cos, sin = (Call(function, (angles,)) for function in (aten.cos.default, aten.sin.default))
    return cast(cos, Var("dtype")), cast(sin, Var("dtype"))


def _times(angles: Expr, scaling: Expr) -> Pair:
    cos, sin = (Call(function, (angles,)) * scaling for function in (aten.cos.default, aten.sin.default))
    return cast(cos, Var("dtype")), cast(sin, Var("dtype"))


def _spread(tables: Pair, spread: Callable[[Expr], Expr]) -> Pair:
    """Both tables, which have a dimension of heads meanwhile: rotations of parts do it so."""
    cos, sin = (spread(Call(aten.unsqueeze.default, (table, 1))) for table in tables)
    return Call(aten.squeeze.dim, (cos, HEADS_FIRST)), Call(aten.squeeze.dim, (sin, HEADS_FIRST))


def _first_half(x: Expr) -> Expr:
    return Call(aten.slice.Tensor, (x, Var("last"), 0, Var("half"), 1))


def _of_halves(positions: Expr, frequencies: Expr, dtype: Expr) -> Pair:
    tables = Call(tables_op, (positions, frequencies, dtype, 1.0, False))
    return getitem(tables, 0), getitem(tables, 1)


def _of_scaled_halves(positions: Expr, frequencies: Expr, dtype: Expr, scaling: Expr) -> Pair:
    tables = Call(tables_op, (positions, frequencies, dtype, scaling, False))
    return getitem(tables, 0), getitem(tables, 1)


def _of_pairs(positions: Expr, frequencies: Expr, dtype: Expr) -> Pair:
    tables = Call(tables_op, (positions, frequencies, dtype, 1.0, True))
    return getitem(tables, 0), getitem(tables, 1)


@rewrite(_of_halves, where=are_of_positions)
def rotary_tables(positions: Expr, frequencies: Expr, dtype: Expr) -> Pair:
    """Angles of halves, one frequency for each pair (Llama and most others)."""
    return _plain(_halves(_angles(positions, frequencies), "cat_dim"))


@rewrite(_of_scaled_halves, where=are_scaled)
def rotary_tables_scaled(positions: Expr, frequencies: Expr, dtype: Expr, scaling: Expr) -> Pair:
    """The same times a factor for long contexts (YaRN; Peng et al., 2023)."""
    return _times(_halves(_angles(positions, frequencies), "cat_dim"), scaling)


@rewrite(_of_scaled_halves, where=are_doubled)
def rotary_tables_doubled(positions: Expr, frequencies: Expr, dtype: Expr, scaling: Expr) -> Pair:
    """Tables of one column for each pair, which are doubled themselves (gpt-oss)."""
    return _spread(_times(_angles(positions, frequencies), scaling), lambda table: _halves(table, "heads_cat_dim"))


@rewrite(_of_pairs, where=are_of_positions)
def rotary_tables_of_pairs(positions: Expr, frequencies: Expr, dtype: Expr) -> Pair:
    """Angles of neighbouring pairs (Cohere)."""
    return _plain(_pairs(_angles(positions, frequencies)))


@rewrite(_of_pairs, where=are_of_first_halves)
def rotary_tables_respread(positions: Expr, frequencies: Expr, dtype: Expr) -> Pair:
    """Angles of halves, of which the first goes to neighbouring pairs (GLM, Helium, Ernie 4.5)."""
    tables = _plain(_halves(_angles(positions, frequencies), "cat_dim"))
    return _spread(tables, lambda table: _pairs(_first_half(table)))


ROTARY_TABLES: tuple[Rule, ...] = (
    rotary_tables_doubled,
    rotary_tables_respread,
    rotary_tables_scaled,
    rotary_tables_of_pairs,
    rotary_tables,
)
"""The longer forms first: what they begin with is one of the others."""
