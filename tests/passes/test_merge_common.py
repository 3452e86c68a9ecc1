"""Equal calls merge; calls that only look equal do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from autodeploy.passes.merge_common import MergeCommon
from tests.graphs import clean, context, targets
from tests.passes.test_functionalize import graph

Function = Callable[[Tensor], Tensor]


def merge(gm: GraphModule, fuel: int | None = None) -> int:
    changed = MergeCommon().run(gm, context(fuel))
    gm.graph.lint()
    gm.recompile()
    return changed


def chains(x: Tensor) -> Tensor:
    return (x.sin() * 2).exp() + (x.sin() * 2).exp() + (x.sin() * 3)


def with_options(x: Tensor) -> Tensor:
    return torch.cat((x.sum(-1, keepdim=True), x.sum(-1, keepdim=True), x.to(torch.float64).float()), -1)


@pytest.mark.parametrize(("function", "merged"), [(chains, 4), (with_options, 1)])
def test_equal_calls_become_one(function: Function, merged: int) -> None:
    gm, x = clean(graph(function)), torch.randn(1, 9, 8)
    assert merge(gm) == merged
    assert merge(gm) == 0
    assert torch.equal(gm(x), function(x))


def random(x: Tensor) -> Tensor:
    return torch.rand_like(x) - torch.rand_like(x)


def types_of_numbers(x: Tensor) -> Tensor:
    i = x.to(torch.int64)
    return (i * 2).to(x.dtype) / 3 + i * 2.0 + i * True


def signs_of_zero(x: Tensor) -> Tensor:
    return torch.full_like(x, 0.0).reciprocal() - torch.full_like(x, -0.0).reciprocal()


def order(x: Tensor) -> Tensor:
    return (x - 2 * x.sin()) * (2 * x.sin() - x)


@pytest.mark.parametrize("function", [random, types_of_numbers, signs_of_zero])
def test_calls_that_only_look_equal_stay(function: Function) -> None:
    assert merge(clean(graph(function))) == 0


def test_operands_keep_their_order() -> None:
    gm, x = clean(graph(order)), torch.randn(1, 9, 8)
    assert merge(gm) == 2
    assert torch.equal(gm(x), order(x))


def written_between(x: Tensor) -> Tensor:
    y = x * 2
    before = y.sum(-1, keepdim=True)
    y.add_(1)
    return before - y.sum(-1, keepdim=True)


def written_apart(x: Tensor) -> Tensor:
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    first.add_(1)
    return first - second


def written_through_a_view(x: Tensor) -> Tensor:
    y = x.sin()
    before = y.exp()
    y[..., 0] = 0.0
    return before - y.exp()


@pytest.mark.parametrize("function", [written_between, written_apart, written_through_a_view])
def test_no_read_moves_past_a_write(function: Function) -> None:
    gm, x = graph(function), torch.randn(1, 9, 8)
    merge(gm)
    assert torch.equal(gm(x.clone()), function(x.clone()))


def test_calls_that_write_pages_stay() -> None:
    gm = graph(lambda x: x.sin())
    (node,) = gm.graph.find_nodes(op="placeholder")
    with gm.graph.inserting_before(gm.graph.output_node()):
        first, second = (gm.graph.call_function(torch.ops.aten.add_.Tensor, (node, 1)) for _ in range(2))
        both = gm.graph.call_function(torch.ops.aten.add.Tensor, (first, second))
    gm.graph.output_node().args = (both,)
    assert merge(gm) == 0


def test_fuel_is_asked_for_each() -> None:
    gm, x = clean(graph(chains)), torch.randn(1, 9, 8)
    assert merge(gm, 2) == 2
    assert targets(gm).count("aten.exp.default") == 2
    assert torch.equal(gm(x), chains(x))
