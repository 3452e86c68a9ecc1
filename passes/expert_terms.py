"""Reading the terms of a mixture of experts off a graph; the first half of `canonicalize_experts`."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from autodeploy.graph.nodes import is_call, value
from autodeploy.patterns.experts import DENSE_TERM, SPARSE_TERM, SPREAD_WEIGHTS
from autodeploy.rewrite import Expr
from autodeploy.rewrite.search import Search, State

aten = torch.ops.aten
_ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)


@dataclass(frozen=True)
class Routing:
    """Which experts each row chose and how much of each it takes, `[..., k]`; all of them where `selected` is None."""

    selected: Node | None
    weights: Node


@dataclass(frozen=True)
class Term:
    """What one expert adds. `rows` are those that it computes, or None for all."""

    expert: int
    result: Node
    routing: Routing
    rows: Node | None = None


@dataclass(frozen=True)
class Mixture:
    """A sum of terms, and what else is in it."""

    root: Node
    terms: tuple[Term, ...]
    rest: tuple[Node, ...]


def find(pattern: Expr, node: Node) -> Mapping[str, Any] | None:
    """What the holes of `pattern` are at `node`, whoever else uses its nodes; None where it is not there."""
    state = next(Search(node).match(pattern, node, State(), node), None)
    return None if state is None else state.bindings


def read_mixture(root: Node) -> Mixture:
    """The terms that `root` adds up, one `index_add` or `index_put` after the other, or by plain additions."""
    return _read_sum(root) if is_call(root, aten.add.Tensor) else _read_scatters(root)


def is_end(node: Node) -> bool:
    """Whether `node` may be the last of the additions of a mixture: no other goes on from it."""
    if is_call(node, aten.add.Tensor):
        return not any(_goes_on(user, node) for user in node.users)
    return not any(user.target is node.target and user.args[0] is node for user in node.users)


def _goes_on(user: Node, node: Node) -> bool:
    return is_call(user, aten.add.Tensor) and len(node.users) == 1 and user.kwargs == {}


def _read_scatters(root: Node) -> Mixture:
    terms: list[Term] = []
    node, users = root, 0
    while (found := find(SPARSE_TERM, node)) is not None and users <= (node.target is aten.index_put.default) + 1:
        accumulates = node.target is aten.index_add.default
        if not (accumulates or _are_distinct(found["selected"])):
            break
        rows = node.args[2] if accumulates else node.args[1][0]  # type: ignore[index]
        terms.append(Term(found["expert"], found["result"], Routing(found["selected"], found["weights"]), rows))  # type: ignore[arg-type]
        node = found["total"]
        users = len(node.users)
    return Mixture(root, tuple(reversed(terms)), () if _is_zero(node) else (node,))


def _read_sum(root: Node) -> Mixture:
    terms: list[Term] = []
    rest: list[Node] = []
    pending = [root]
    while pending:
        node = pending.pop()
        if node is root or (is_call(node, aten.add.Tensor) and len(node.users) == 1):
            parts = [part for part in node.args[:2] if isinstance(part, Node)]
            if len(parts) == 2 and not node.kwargs:
                pending.extend(reversed(parts))
                continue
        found = find(DENSE_TERM, node) if len(node.users) == 1 else None
        term = None if found is None else _dense_term(found)
        if term is not None:
            terms.append(term)
        elif not _is_zero(node):
            rest.append(node)
    return Mixture(root, tuple(terms), tuple(rest))


def _dense_term(found: Mapping[str, Any]) -> Term | None:
    """The term that a match says, or None where its column is that of no expert."""
    if "table" not in found:
        return Term(found["expert"], found["result"], Routing(found["selected"], found["weights"]))
    table = found["table"]
    last = found["dim"] in (-1, value(table).dim() - 1)
    if not last or found.get("end", found["expert"] + 1) != found["expert"] + 1:
        return None
    return Term(found["expert"], found["result"], unspread(table))


def unspread(table: Node) -> Routing:
    """The few experts of each row that a table of all their weights was made of; all of them where it does not show."""
    found = find(SPREAD_WEIGHTS, table)
    if found is None:
        return Routing(None, table)
    scatters = is_call(table, aten.scatter.src)
    if scatters and not (_is_zero(found["zeros"]) and _are_distinct(found["selected"])):
        return Routing(None, table)
    spread = value(table) if scatters else value(table).unsqueeze(-1)  # of one-hot rows `[..., k, E]`, k is summed up
    along = spread.dim() - 1 if scatters else spread.dim() - 2
    return (
        Routing(found["selected"], found["weights"]) if found["dim"] % spread.dim() == along else Routing(None, table)
    )


def _are_distinct(selected: Node) -> bool:
    """Whether no row chose an expert twice: the choices are those of `topk`."""
    node: object = selected
    while is_call(node, aten.to.dtype):
        node = node.args[0]
    return is_call(node, operator.getitem) and is_call(node.args[0], aten.topk.default) and node.args[1:] == (1,)


def _is_zero(node: Node) -> bool:
    return is_call(node, *_ZEROS) or (is_call(node, aten.full.default, aten.full_like.default) and node.args[1] in (0,))
