"""Matches that touch each other, other users, the graph's ends, or their own inputs; every result is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy.rewrite import AnyOf, Call, Expr, Var, apply_rules, cast, match_rule, rewrite
from tests.graphs import targets
from tests.rewrite.graphs import Function, graph_of, rewritten

aten = torch.ops.aten
SILU = "aten.silu.default"


@rewrite(lambda x: Call(aten.silu.default, (x,)))
def swish(x: Expr) -> Expr:
    return x * Call(aten.sigmoid.default, (x,))


@rewrite(lambda x, y: Call(aten.addcmul.default, (x, y, y)))
def square_added(x: Expr, y: Expr) -> Expr:
    return x + y * y


@rewrite(lambda x, y: Call(aten.silu.default, (x,)) * y)
def swish_times(x: Expr, y: Expr) -> Expr:
    return (x * Call(aten.sigmoid.default, (x,))) * y


@rewrite(lambda x: x)
def twice_negated(x: Expr) -> Expr:
    return Call(aten.neg.default, (Call(aten.neg.default, (x,)),))


@rewrite(lambda x: Call(aten.neg.default, (x,)) + 0.0)
def negated(x: Expr) -> Expr:
    return Call(aten.neg.default, (x,))


def test_a_match_inside_anothers_input() -> None:
    def nested(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        inner = x * x.sigmoid()
        return inner * inner.sigmoid()

    gm = graph_of(nested)
    assert rewritten(gm, swish).applied == {"swish": 2}
    assert targets(gm) == [SILU, SILU]


def test_two_rules_that_want_the_same_nodes() -> None:
    def both(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return (x * x.sigmoid()) * y

    for rules, applied in (((swish, swish_times), "swish_times"), ((swish_times, swish), "swish_times")):
        gm = graph_of(both)
        assert rewritten(gm, *rules).applied == {applied: 1}  # its root comes later, and so is tried first
        assert targets(gm) == [SILU, "aten.mul.Tensor"]


def test_one_rule_at_two_roots_that_share_an_interior_node_declines_both() -> None:
    def shared(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        square = y * y
        return (x + square) * (w + square)

    result = rewritten(graph_of(shared), square_added)
    assert result.total == 0
    assert {miss.reason for miss in result.misses} == {"mul is also used outside the pattern"}
    assert [miss.root for miss in result.misses] == ["add", "add_1"]


def test_two_roots_may_share_what_their_holes_bind() -> None:
    gm = graph_of(lambda x, y, w: (x * x.sigmoid()) + (x * x.sigmoid()))
    assert rewritten(gm, swish).total == 2


@pytest.mark.parametrize(
    "function",
    [lambda x, y, w: x + x * x, lambda x, y, w: x * x + x, lambda x, y, w: x.sin() + x.sin() * x.sin()],
)
def test_one_node_may_be_bound_to_two_holes(function: Function) -> None:
    gm = graph_of(function)
    rewritten(gm, square_added)
    assert ("aten.addcmul.default" in targets(gm)) == (len(targets(graph_of(function))) == 2)


def test_a_hole_that_binds_an_interior_node_declines() -> None:
    def doubled(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        square = y * y
        return square + square

    result = rewritten(graph_of(doubled), square_added)
    assert result.total == 0
    assert [miss.reason for miss in result.misses] == ["mul is inside the pattern and also bound to a hole of it"]


def test_an_interior_node_that_is_the_graphs_output_declines() -> None:
    gm = graph_of(lambda x, y, w: (x * x.sigmoid()) + 0.0)
    sigmoid = gm.graph.find_nodes(op="call_function", target=aten.sigmoid.default)[0]
    gm.graph.output_node().args = ((gm.graph.output_node().args[0], sigmoid),)
    result = rewritten(gm, swish)
    assert [miss.reason for miss in result.misses] == ["sigmoid is also used outside the pattern"]


def test_a_root_that_is_output_twice_is_rewritten_in_both_places() -> None:
    gm = graph_of(lambda x, y, w: x * x.sigmoid())
    output = gm.graph.output_node()
    output.args = ((output.args[0], output.args[0]),)
    assert rewritten(gm, swish).total == 1
    assert targets(gm) == [SILU]


def test_a_replacement_may_be_a_hole() -> None:
    gm = graph_of(lambda x, y, w: x.sin().neg().neg().neg().neg() * y)
    assert rewritten(gm, twice_negated).total == 2
    assert targets(gm) == ["aten.sin.default", "aten.mul.Tensor"]


def test_the_input_of_a_graph_may_become_its_output() -> None:
    gm = graph_of(lambda x, y, w: x.neg().neg())
    assert rewritten(gm, twice_negated).total == 1
    assert targets(gm) == []


def test_a_second_application_finds_nothing() -> None:
    gm = graph_of(lambda x, y, w: (x * x.sigmoid()) * y + w * w.sigmoid())
    assert rewritten(gm, swish, swish_times).total == 2
    assert rewritten(gm, swish, swish_times).total == 0


def test_a_replacement_that_contains_its_own_pattern_ends() -> None:
    gm = graph_of(lambda x, y, w: -x - (-y))
    assert rewritten(gm, negated).total == 2
    assert targets(gm).count("aten.add.Tensor") == 2


def test_what_occurs_twice_in_a_replacement_is_computed_once() -> None:
    def squared_swish(x: Expr) -> Expr:
        activated = Call(aten.silu.default, (x,))
        return activated * activated

    @rewrite(squared_swish)
    def square(x: Expr) -> Expr:
        return (x * Call(aten.sigmoid.default, (x,))) * (x * Call(aten.sigmoid.default, (x,)))

    gm = graph_of(lambda x, y, w: (x * x.sigmoid()) * (x * x.sigmoid()))
    assert rewritten(gm, square).total == 1
    assert targets(gm) == [SILU, "aten.mul.Tensor"]


def test_a_replacement_of_another_shape_or_dtype_declines() -> None:
    @rewrite(lambda x, y: y, where=lambda match: None)
    def takes_the_second(x: Expr, y: Expr) -> Expr:
        return Call(aten.sub.Tensor, (x, y))

    result = rewritten(graph_of(lambda x, y, w: x - w), takes_the_second)
    assert result.misses[0].reason.startswith("the replacement is float32 [4], not float32 [1, ")
    gm = graph_of(lambda x, y, w: x.double() - y)
    result = apply_rules(gm, [takes_the_second], lambda: True)
    assert result.total == 0
    assert "the replacement is float32" in result.misses[0].reason
    assert "aten.sub.Tensor" in targets(gm)


def test_a_hole_that_becomes_the_result_must_be_a_tensor() -> None:
    @rewrite(lambda x, y: y, where=lambda match: None)
    def second(x: Expr, y: Expr) -> Expr:
        return Call(aten.sub.Tensor, (x, y))

    result = rewritten(graph_of(lambda x, y, w: x - 2.0), second)
    assert [miss.reason for miss in result.misses] == ["hole 'y' is 2.0, not a tensor"]


def test_a_size_is_no_constant() -> None:
    @rewrite(lambda x, size: Call(aten.reshape.default, (x, [1, size])))
    def flattened(x: Expr, size: Expr) -> Expr:
        return Call(aten.reshape.default, (x, [1, size]))

    def function(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return x.reshape(1, x.shape[1] * 4).sin()

    gm = graph_of(function)
    assert rewritten(gm, flattened).total == 1  # the hole takes the node of the size

    @rewrite(lambda x: Call(aten.reshape.default, (x, [1, 24])))
    def fixed(x: Expr) -> Expr:
        return Call(aten.reshape.default, (x, [1, 24]))  # the size that the example had

    (miss,) = [match_rule(fixed, node) for node in graph_of(function).graph.nodes if node.target in fixed.roots]
    assert "expected 24" in str(miss)


def test_the_alternative_that_got_furthest_is_reported() -> None:
    @rewrite(lambda x: Call(aten.silu.default, (x,)))
    def either(x: Expr) -> Expr:
        short = Call(aten.tanh.default, (x,)) * 2.0
        long = Call(aten.sin.default, (Call(aten.cos.default, (Call(aten.exp.default, (x,)),)),)) * 2.0
        return AnyOf((short, long))

    result = apply_rules(graph_of(lambda x, y, w: x.relu().cos().sin() * 2.0), [either], lambda: True)
    (miss,) = result.misses
    assert (miss.node, miss.reason) == ("relu", "expected aten.exp.default, found aten.relu.default")
    assert miss.depth == 3


def test_a_pattern_that_was_whole_and_declined_is_told_before_one_that_went_further_astray() -> None:
    @rewrite(lambda x: Call(aten.silu.default, (x,)), where=lambda match: "not here")
    def either(x: Expr) -> Expr:
        long = Call(aten.sin.default, (Call(aten.cos.default, (Call(aten.exp.default, (x,)),)),)) * 2.0
        return AnyOf((long, Call(aten.sin.default, (x,)) * 2.0))

    result = apply_rules(graph_of(lambda x, y, w: x.cos().sin() * 2.0), [either], lambda: True)
    assert [miss.reason for miss in result.misses] == ["not here"]


def test_a_root_with_a_wrong_first_operand_is_no_miss() -> None:
    result = apply_rules(graph_of(lambda x, y, w: x.relu() * y.tanh()), [swish, square_added], lambda: True)
    assert result.misses == ()


def test_a_small_pattern_declined_for_its_operands_is_a_miss() -> None:
    result = apply_rules(graph_of(lambda x, y, w: x * y.sigmoid()), [swish], lambda: True)
    (miss,) = result.misses
    assert (miss.root, miss.node, miss.reason) == ("mul", "y", "hole 'x' is already bound to x")


def test_one_failure_met_on_the_way_from_two_roots_is_told_once() -> None:
    @rewrite(lambda x: Call(aten.silu.default, (x,)))
    def deep(x: Expr) -> Expr:
        sine = Call(aten.sin.default, (x,))
        return cast(Call(aten.exp.default, (Call(aten.cos.default, (sine,)),)), Var("dtype"))

    assert deep.roots == (aten.to.dtype, aten.exp.default)
    result = apply_rules(graph_of(lambda x, y, w: x.tan().cos().exp().double()), [deep], lambda: True)
    assert [(miss.root, miss.node) for miss in result.misses] == [("to", "tan")]
