"""Writes into memory that a match reads, returns or lies across."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy.rewrite import Call, Expr, rewrite
from tests.graphs import targets
from tests.rewrite.graphs import Function, raw_graph_of, rewritten

aten = torch.ops.aten


@rewrite(lambda x: Call(aten.silu.default, (x,)))
def swish(x: Expr) -> Expr:
    return x * Call(aten.sigmoid.default, (x,))


@rewrite(lambda x: x)
def twice_negated(x: Expr) -> Expr:
    return Call(aten.neg.default, (Call(aten.neg.default, (x,)),))


@rewrite(lambda x: Call(aten.tanh.default, (Call(aten.select.int, (x, 1, 0)),)))
def tanh_of_first(x: Expr) -> Expr:
    return Call(aten.select.int, (Call(aten.tanh.default, (x,)), 1, 0))


def between(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """The sigmoid reads what the product no longer finds."""
    base = x + y
    gate = base.sigmoid()
    base.add_(1.0)
    return base * gate


def through_a_view(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    base = x + y
    gate = base.sigmoid()
    base.view(-1)[0] = 7.0
    return base * gate


def of_the_interior(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    base = x + y
    gate = base.sigmoid()
    gate.mul_(0.5)
    return base * gate


@pytest.mark.parametrize("function", [between, through_a_view, of_the_interior])
def test_a_write_inside_a_match_declines_it(function: Function) -> None:
    gm = raw_graph_of(function)
    assert rewritten(gm, swish).total == 0
    assert "aten.sigmoid.default" in targets(gm)


def test_the_reason_names_the_memory_and_the_write() -> None:
    def whole(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        base = x + y
        product = base * base.sigmoid()
        base.add_(1.0)
        return product + base

    (miss,) = rewritten(raw_graph_of(whole), swish).misses
    assert (miss.node, miss.reason) == ("add", "add shares memory with what a call up to add_ writes")


def test_a_write_before_the_match_blocks_nothing() -> None:
    def before(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        base = x + y
        base.add_(1.0)
        return base * base.sigmoid()

    assert rewritten(raw_graph_of(before), swish).total == 1


def test_a_write_into_other_memory_blocks_nothing() -> None:
    def elsewhere(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        other = y + 1.0
        gate = x.sigmoid()
        other.mul_(2.0)
        return x * gate + other

    assert rewritten(raw_graph_of(elsewhere), swish).total == 1


def test_a_result_that_would_share_memory_with_what_is_written_later_declines() -> None:
    def later(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        base = x + y
        copy = base.neg().neg()
        copy.add_(1.0)
        return base * copy

    gm = raw_graph_of(later)
    assert rewritten(gm, twice_negated).total == 0

    def of_the_base(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        base = x + y
        copy = base.neg().neg()
        base.add_(1.0)
        return base * copy

    assert rewritten(raw_graph_of(of_the_base), twice_negated).total == 0


def test_a_result_that_was_a_view_stays_one_where_it_is_written() -> None:
    def written(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        whole = (x + y).tanh()
        first = whole.select(1, 0)
        first.add_(1.0)
        return whole.sum(1) + first

    assert rewritten(raw_graph_of(written), tanh_of_first).total == 0
