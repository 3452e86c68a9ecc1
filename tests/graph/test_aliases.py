"""Who may write over what: only the last reader of memory that a step made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node

from autodeploy.graph.aliases import why_kept
from autodeploy.graph.nodes import insert_call

aten = torch.ops.aten
Build = Callable[[Graph, Node], tuple[Node, Node]]


def neg(graph: Graph, x: Node) -> Node:
    return insert_call(graph, aten.neg.default, (x,))


def flat(graph: Graph, x: Node) -> Node:
    return insert_call(graph, aten.reshape.default, (x, [6]))


def add(graph: Graph, x: Node, y: Node) -> Node:
    return insert_call(graph, aten.add.Tensor, (x, y))


def last(graph: Graph, x: Node) -> tuple[Node, Node]:
    made = neg(graph, x)
    neg(graph, made)
    return made, add(graph, x, made)


def input_itself(graph: Graph, x: Node) -> tuple[Node, Node]:
    return x, neg(graph, x)


def view_of_input(graph: Graph, x: Node) -> tuple[Node, Node]:
    view = flat(graph, x)
    return view, neg(graph, view)


def read_later(graph: Graph, x: Node) -> tuple[Node, Node]:
    made = neg(graph, x)
    call = neg(graph, made)
    add(graph, made, x)
    return made, call


def view_read_later(graph: Graph, x: Node) -> tuple[Node, Node]:
    made = neg(graph, x)
    view = flat(graph, made)
    call = neg(graph, made)
    neg(graph, view)
    return made, call


def source_of_view_read_later(graph: Graph, x: Node) -> tuple[Node, Node]:
    made = neg(graph, x)
    view = flat(graph, made)
    call = neg(graph, view)
    neg(graph, made)
    return view, call


def read_twice(graph: Graph, x: Node) -> tuple[Node, Node]:
    made = neg(graph, x)
    return made, add(graph, insert_call(graph, aten.t.default, (insert_call(graph, aten.t.default, (made,)),)), made)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (last, None),
        (input_itself, "x is memory of x, which outlives the step"),
        (view_of_input, "reshape_default is memory of x, which outlives the step"),
        (read_later, "add_tensor reads neg_default later"),
        (view_read_later, "neg_default_2 reads neg_default later"),
        (source_of_view_read_later, "neg_default_2 reads reshape_default later"),
        (read_twice, "add_tensor reads neg_default twice"),
    ],
)
def test_what_a_call_may_write_over(build: Build, reason: str | None) -> None:
    graph = Graph()
    x = graph.placeholder("x")
    x.meta["val"] = FakeTensorMode().from_tensor(torch.randn(2, 3))
    assert why_kept(*build(graph, x)) == reason
