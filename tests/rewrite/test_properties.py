"""Random graphs under random sets of sound rules: what is computed never changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.nn import Module

from autodeploy.graph.nodes import insert_call
from autodeploy.rewrite import AnyOf, Call, Expr, Outputs, Rule, Var, apply_rules, rewrite

aten = torch.ops.aten
UNARY = (aten.neg.default, aten.sin.default, aten.cos.default, aten.sigmoid.default, aten.tanh.default)
BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor)
IN_PLACE = (aten.add_.Tensor, aten.mul_.Tensor)
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


@dataclass(frozen=True)
class Motif:
    """The nodes of a pattern, perhaps with a write into one of the nodes before them after so many calls."""

    rule: Rule
    operands: tuple[int, int]
    write_after: int | None
    written: int


operands = st.tuples(st.integers(0, 3), st.integers(0, 3))
pure = st.builds(Step, st.sampled_from((*UNARY, *BINARY, aten.transpose.int)), operands)
writes = st.builds(Step, st.sampled_from(IN_PLACE), operands)
motifs = st.builds(Motif, st.sampled_from(RULES), operands, st.none(), st.just(0))
disturbed = st.builds(Motif, st.sampled_from(RULES), operands, st.integers(0, 4), st.integers(0, 3))
outputs = st.lists(st.integers(0, 8), min_size=1, max_size=4)
subsets = st.lists(st.sampled_from(RULES), min_size=1, max_size=len(RULES), unique=True)


class Builder:
    """Makes a graph of square matrices, so that every operator takes every operand."""

    def __init__(self) -> None:
        self.graph, mode = Graph(), FakeTensorMode()
        self.nodes = [self.graph.placeholder(f"x{index}") for index in range(NUM_INPUTS)]
        for node in self.nodes:
            node.meta["val"] = mode.from_tensor(torch.empty(2, 2))

    def back(self, count: int) -> Node:
        """The node that many before the last one."""
        return self.nodes[-1 - min(count, len(self.nodes) - 1)]

    def call(self, target: Callable[..., object], *arguments: object) -> Node:
        """Add a node; a caller's tensors are not written directly."""
        first = arguments[0]
        if target in IN_PLACE and isinstance(first, Node) and first.op == "placeholder":
            return first
        self.nodes.append(insert_call(self.graph, target, arguments))  # type: ignore[arg-type]
        return self.nodes[-1]

    def add(self, item: Step | Motif) -> None:
        """Add what `item` says."""
        first, second = (self.back(count) for count in item.operands)
        if isinstance(item, Step):
            self.call(item.target, first, *_rest(item.target, second))
            return
        self._left, self._written = item.write_after, self.back(item.written)
        holes = dict(zip(item.rule.holes, (first, second, first), strict=False))
        for part in item.rule.pattern.parts if isinstance(item.rule.pattern, Outputs) else (item.rule.pattern,):
            self.expression(part, holes, {})

    def expression(self, expression: object, holes: Mapping[str, Node], built: dict[int, Node]) -> object:
        """Add the calls of a pattern, what occurs twice in it once."""
        match expression:
            case Var(name):
                return holes[name]
            case AnyOf(choices):
                return self.expression(choices[-1], holes, built)
            case Call(target, args):
                if id(expression) not in built:
                    arguments = [self.expression(argument, holes, built) for argument in args]
                    built[id(expression)] = self.call(target, *arguments)
                    self._disturb()
                return built[id(expression)]
            case _:
                return expression

    def _disturb(self) -> None:
        if self._left == 0:
            self.call(aten.add_.Tensor, self._written, 0.5)
        if self._left is not None:
            self._left -= 1


def build(program: Sequence[Step | Motif], results: Sequence[int]) -> GraphModule:
    builder = Builder()
    for item in program:
        builder.add(item)
    builder.graph.output(tuple(builder.back(count) for count in results))
    builder.graph.eliminate_dead_code()
    return GraphModule(Module(), builder.graph)


def _rest(target: Callable[..., object], second: Node) -> tuple[Node | float, ...]:
    """The operands after the first; a write takes a number, for PyTorch refuses operands that overlap."""
    if target in UNARY:
        return ()
    if target is aten.transpose.int:
        return (0, 1)
    return (0.5,) if target in IN_PLACE else (second,)


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


many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(st.lists(pure | motifs, min_size=1, max_size=6), outputs, subsets)
def test_rewriting_keeps_what_a_graph_computes(
    program: list[Step | Motif], results: list[int], rules: list[Rule]
) -> None:
    check(build(program, results), rules, 1000)


@many
@given(st.lists(pure | writes | motifs | disturbed, min_size=1, max_size=5), outputs, subsets, st.integers(0, 8))
def test_rewriting_keeps_what_a_graph_with_writes_computes(
    program: list[Step | Motif], results: list[int], rules: list[Rule], fuel: int
) -> None:
    check(build(program, results), rules, fuel)
