"""Random graphs under random sets of sound rules: what is computed never changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from autodeploy.graph.nodes import insert_call
from autodeploy.rewrite import AnyOf, Call, Expr, Rule, apply_rules, rewrite

aten = torch.ops.aten
UNARY = (aten.neg.default, aten.sin.default, aten.cos.default, aten.sigmoid.default, aten.tanh.default)
BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)
IN_PLACE = (aten.add_.Tensor, aten.mul_.Tensor)
VIEWS: Sequence[Callable[..., object]] = (aten.transpose.int, aten.view.default)
NUM_INPUTS = 2


def call(target: object, *arguments: object) -> Call:
    return Call(target, arguments)


@rewrite(lambda x: x)
def twice_negated(x: Expr) -> Expr:
    return call(aten.neg.default, -x)


@rewrite(lambda x, y: call(aten.sub.Tensor, x, y))
def sum_with_negative(x: Expr, y: Expr) -> Expr:
    return x + (-y)


@rewrite(lambda x, y: -call(aten.sub.Tensor, x, y))
def turned_difference(x: Expr, y: Expr) -> Expr:
    return call(aten.sub.Tensor, y, x)


@rewrite(lambda x, y, z: x * (y + z))
def factored(x: Expr, y: Expr, z: Expr) -> Expr:
    return x * y + x * z


@rewrite(lambda x: -call(aten.sin.default, x))
def odd_sine(x: Expr) -> Expr:
    return call(aten.sin.default, -x)


@rewrite(lambda x: call(aten.cos.default, x))
def even_cosine(x: Expr) -> Expr:
    return AnyOf((call(aten.cos.default, -x), call(aten.cos.default, call(aten.neg.default, -x))))


@rewrite(lambda x: call(aten.silu.default, x))
def swish(x: Expr) -> Expr:
    return x * call(aten.sigmoid.default, x)


@rewrite(lambda x, y: call(aten.mul.Tensor, y, x))
def swapped(x: Expr, y: Expr) -> Expr:
    return x * y


@rewrite(lambda x, y: (call(aten.add.Tensor, y, x), -call(aten.sub.Tensor, y, x)))
def sum_and_difference(x: Expr, y: Expr) -> tuple[Expr, Expr]:
    return x + y, x - y


@rewrite(lambda x: (call(aten.sin.default, x) * 1.0, call(aten.cos.default, call(aten.sin.default, x))))
def waves(x: Expr) -> tuple[Expr, Expr]:
    sine = call(aten.sin.default, x)
    return sine, call(aten.cos.default, sine)


@rewrite(lambda x: x)
def turned_back(x: Expr) -> Expr:
    return call(aten.transpose.int, call(aten.transpose.int, x, 0, 1), 0, 1)


RULES = (
    twice_negated,
    sum_with_negative,
    turned_difference,
    factored,
    odd_sine,
    even_cosine,
    swish,
    swapped,
    sum_and_difference,
    waves,
    turned_back,
)


@dataclass(frozen=True)
class Step:
    """One node: which operator, and which of the nodes before it are its operands, counted from the end."""

    target: Callable[..., object]
    operands: tuple[int, int]


steps = st.builds(
    Step,
    st.sampled_from((*UNARY, *BINARY, *BINARY, *IN_PLACE, aten.transpose.int)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
pure = steps.filter(lambda step: step.target not in IN_PLACE)
subsets = st.lists(st.sampled_from(RULES), min_size=1, max_size=4, unique=True)


def build(program: Sequence[Step], outputs: Sequence[int]) -> GraphModule:
    """A graph of square matrices, so that every operator takes every operand."""
    graph, mode = Graph(), FakeTensorMode()
    nodes: list[Node] = []
    for index in range(NUM_INPUTS):
        nodes.append(graph.placeholder(f"x{index}"))
        nodes[-1].meta["val"] = mode.from_tensor(torch.empty(2, 2))
    for step in program:
        first, second = (nodes[-1 - min(back, len(nodes) - 1)] for back in step.operands)
        if step.target in IN_PLACE and first.op == "placeholder":
            continue  # a caller's tensors are not written
        arguments = {1: (first,), 2: (first, second), 3: (first, 0, 1)}[
            1 if step.target in UNARY else 3 if step.target is aten.transpose.int else 2
        ]
        nodes.append(insert_call(graph, step.target, arguments))
    graph.output(tuple(nodes[-1 - min(back, len(nodes) - 1)] for back in outputs))
    graph.eliminate_dead_code()
    return GraphModule(Module(), graph)


def check(gm: GraphModule, rules: Sequence[Rule], fuel: int) -> None:
    inputs = [torch.randn(2, 2, dtype=torch.float64) for _ in range(NUM_INPUTS)]
    before: tuple[Tensor, ...] = gm(*[one.clone() for one in inputs])
    left = iter([True] * fuel)
    result = apply_rules(gm, rules, lambda: next(left, False))
    gm.graph.lint()
    gm.recompile()
    after: tuple[Tensor, ...] = gm(*[one.clone() for one in inputs])
    assert result.total <= fuel
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9, equal_nan=True)


many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(st.lists(pure, min_size=1, max_size=14), st.lists(st.integers(0, 6), min_size=1, max_size=3), subsets)
def test_rewriting_keeps_what_a_graph_computes(program: list[Step], outputs: list[int], rules: list[Rule]) -> None:
    check(build(program, outputs), rules, 1000)


@many
@given(
    st.lists(steps, min_size=1, max_size=12),
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    subsets,
    st.integers(0, 5),
)
def test_rewriting_keeps_what_a_graph_with_writes_computes(
    program: list[Step], outputs: list[int], rules: list[Rule], fuel: int
) -> None:
    check(build(program, outputs), rules, fuel)
