"""Writes become values: what is read, and when, stays the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from autodeploy.errors import UnsupportedError
from autodeploy.graph.aliases import writes
from autodeploy.passes.functionalize import Functionalize
from tests.graphs import Of, clean, context, targets, trace

Function = Callable[[Tensor], Tensor]


def graph(function: Function) -> GraphModule:
    return trace(Of(function), torch.randn(1, 6, 8))


def functional(function: Function) -> GraphModule:
    gm = graph(function)
    assert Functionalize().run(gm, context()) > 0
    gm.graph.eliminate_dead_code()
    gm.graph.lint()
    gm.recompile()
    assert not any(writes(node) for node in gm.graph.nodes)
    return gm


def whole(x: Tensor) -> Tensor:
    y = x * 2
    before = y + 1
    y.add_(x).mul_(3).relu_()
    return y + before


def promoted(x: Tensor) -> Tensor:
    y = x.to(torch.bfloat16).sin()
    y.add_(x)  # stays bfloat16
    return y.float() * x


def assigned(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, :, 2:] = x[:, :, 2:]
    out[..., 0] += 3
    out[:, :, 4:6] = 1.0
    return out.masked_fill_(x > 1, -2.0)


def through_views(x: Tensor) -> Tensor:
    out = x.sin()
    out.transpose(1, 2)[:, 3].relu_()
    out.permute(2, 0, 1)[1].zero_()
    out.unsqueeze(0)[0, ..., 5].mul_(2)
    return out


def seen_by_views(x: Tensor) -> Tensor:
    out = x.cos()
    first, second = out.chunk(2, -1)
    early = second + 0.5
    flat = out.view(-1, 8)
    out.mul_(2)
    return torch.cat((first, second * early), -1) + flat.view(1, -1, 8)


def copied_first(x: Tensor) -> Tensor:
    copy = x.clone()
    copy.add_(1)
    return copy * x


def scattered(x: Tensor) -> Tensor:
    out = torch.zeros_like(x[0])
    out.index_add_(0, torch.where(x[0, :, 0] > 0)[0], x[0][x[0, :, 0] > 0])
    return out.unsqueeze(0) + x


def copied_between(x: Tensor) -> Tensor:
    """What one tensor is assigned to is a value of its own: a later write to it must not show."""
    source, out = x.sin(), torch.zeros_like(x)
    out.copy_(source)
    source.add_(5)
    return out + source


def one_of_several(x: Tensor) -> Tensor:
    """The results of an operator that computes two are tensors of their own."""
    values, places = x.topk(2, -1)
    values /= values.sum(-1, keepdim=True)
    return values + places


FUNCTIONS = (
    whole, promoted, assigned, through_views, seen_by_views, copied_first, scattered, copied_between, one_of_several
)  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_write_becomes_a_value(function: Function) -> None:
    gm, x = functional(function), torch.randn(1, 11, 8)
    assert torch.equal(gm(x.clone()), function(x.clone()))


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_graph_that_writes_can_be_cleaned_first(function: Function) -> None:
    gm, x = clean(graph(function)), torch.randn(1, 11, 8)
    assert torch.equal(gm(x.clone()), function(x.clone()))


def test_it_costs_no_more_operators() -> None:
    found = targets(functional(lambda x: (x * 2).add_(1).relu_()))
    assert found == ["aten.mul.Tensor", "aten.add.Tensor", "aten.relu.default"]


def into_input(x: Tensor) -> Tensor:
    return x.add_(1)


def into_chunk(x: Tensor) -> Tensor:
    out = x.sin()
    out.chunk(2, -1)[0].add_(1)
    return out


def into_either(x: Tensor) -> Tensor:
    out = x.sin()
    out.transpose(1, 2).reshape(8, -1).add_(1)
    return out


def into_one_of_several(x: Tensor) -> Tensor:
    rows, columns = torch.meshgrid(x[0, 0].sin(), x[0, 0], indexing="ij")
    return columns.add_(rows)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (into_one_of_several, "meshgrid .* may share memory with several tensors"),
        (into_input, "add_ writes into 'x', which is not the graph's own"),
        (into_chunk, "a write through .*getitem.* has no form"),
        (into_either, r"add_ .* does not say what it writes into"),
    ],
)
def test_what_cannot_be_a_value_is_refused(function: Function, sentence: str) -> None:
    with pytest.raises(UnsupportedError, match=sentence):
        functional(function)


def test_without_fuel_for_all_writes_there_are_none() -> None:
    gm = graph(whole)
    before = targets(gm)
    assert Functionalize().run(gm, context(2)) == 0
    assert targets(gm) == before
