from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from autodeploy.rewrite import AnyOf, Call, Expr, Match, Maybe, Miss, Rule, Var, apply_rules, cast, match_rule, rewrite
from tests.graphs import targets
from tests.rewrite.graphs import Function, graph_of

aten = torch.ops.aten
RELU = "aten.relu.default"


def relu(x: Expr) -> Expr:
    """What the patterns here are replaced by, since no function of the tests calls it."""
    return Call(aten.relu.default, (x,))


def always(match: Match) -> str | None:
    """A guard for patterns whose replacement needs one of their holes only."""
    return None


def rewrites(rule: Rule, function: Function) -> int:
    return apply_rules(graph_of(function), [rule], lambda: True).total


def attempt(rule: Rule, function: Function) -> Match | Miss:
    """What comes of `rule` at the last node that it could begin at."""
    roots = [node for node in graph_of(function).graph.nodes if node.target in rule.roots]
    return match_rule(rule, roots[-1])


def miss(rule: Rule, function: Function) -> Miss:
    found = attempt(rule, function)
    assert isinstance(found, Miss)
    return found


@rewrite(relu, where=always)
def scaled_sum(x: Expr, y: Expr) -> Expr:
    return (x + y) * 2.0


def test_a_pattern_is_rewritten_where_it_occurs() -> None:
    gm = graph_of(lambda x, y, w: (x + y) * 2.0)
    result = apply_rules(gm, [scaled_sum], lambda: True)
    assert result.applied == {"scaled_sum": 1}
    assert targets(gm) == [RELU]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, w: (x + y) * 3.0,
        lambda x, y, w: (x - y) * 2.0,
        lambda x, y, w: torch.add(x, y, alpha=2) * 2.0,
        lambda x, y, w: (x + y) / 2.0,
        lambda x, y, w: (x + y) * True,
    ],
    ids=["other constant", "other operator", "alpha given", "other root", "a boolean is no number"],
)
def test_a_pattern_is_not_rewritten_where_something_differs(function: Function) -> None:
    assert rewrites(scaled_sum, function) == 0


def test_an_integer_matches_the_float_of_equal_value() -> None:
    assert rewrites(scaled_sum, lambda x, y, w: (x + y) * 2) == 1


@rewrite(relu, where=always)
def weighted_sine(x: Expr, w: Expr) -> Expr:
    return w * Call(aten.sin.default, (x,))


@pytest.mark.parametrize("function", [lambda x, y, w: w * x.sin(), lambda x, y, w: x.sin() * w])
def test_products_match_in_either_order(function: Function) -> None:
    assert rewrites(weighted_sine, function) == 1


@rewrite(relu)
def difference(x: Expr) -> Expr:
    return x - Call(aten.sin.default, (x,))


def test_differences_match_in_one_order_only() -> None:
    assert rewrites(difference, lambda x, y, w: x - x.sin()) == 1
    assert rewrites(difference, lambda x, y, w: x.sin() - x) == 0


def test_a_hole_that_occurs_twice_binds_one_node() -> None:
    assert rewrites(difference, lambda x, y, w: x - y.sin()) == 0
    found = miss(difference, lambda x, y, w: x - y.sin())
    assert (found.node, found.reason) == ("y", "hole 'x' is already bound to x")


@rewrite(relu, where=always)
def swapped_twice(x: Expr, y: Expr) -> Expr:
    return (x + Call(aten.sin.default, (y,))) * (y + Call(aten.sin.default, (x,)))


def test_operands_are_tried_in_every_order_until_the_holes_agree() -> None:
    assert rewrites(swapped_twice, lambda x, y, w: (y.sin() + x) * (x.sin() + y)) == 1
    assert rewrites(swapped_twice, lambda x, y, w: (y.sin() + x) * (y.sin() + y)) == 0


@rewrite(relu)
def sine_in_some_dtype(x: Expr) -> Expr:
    return cast(Call(aten.sin.default, (cast(x, Var("compute_dtype")),)), Var("out_dtype"))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, w: x.sin(),
        lambda x, y, w: x.double().sin(),
        lambda x, y, w: x.sin().double(),
        lambda x, y, w: x.double().sin().float(),
    ],
)
def test_casts_match_whether_or_not_they_are_there(function: Function) -> None:
    found = attempt(sine_in_some_dtype, function)
    assert isinstance(found, Match)
    assert found.x.name == "x"


@rewrite(relu)
def same_dtype_twice(x: Expr) -> Expr:
    dtype = Var("dtype")
    return cast(Call(aten.sin.default, (cast(x, dtype),)), dtype)


def test_casts_to_one_hole_are_to_one_dtype() -> None:
    assert isinstance(attempt(same_dtype_twice, lambda x, y, w: x.double().sin()), Match)
    found = miss(same_dtype_twice, lambda x, y, w: x.double().sin().half())
    assert "found" in found.reason or "bound" in found.reason


@rewrite(relu)
def either(x: Expr) -> Expr:
    return AnyOf((Call(aten.sin.default, (x,)), Call(aten.cos.default, (x,)))) + 1.0


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda x, y, w: x.sin() + 1.0, 1),
        (lambda x, y, w: x.cos() + 1.0, 1),
        (lambda x, y, w: x.tan() + 1.0, 0),
    ],
)
def test_one_of_the_alternatives_matches(function: Function, count: int) -> None:
    assert rewrites(either, function) == count


def test_a_pattern_whose_root_has_alternatives_begins_at_each() -> None:
    @rewrite(relu)
    def wave(x: Expr) -> Expr:
        return AnyOf((Call(aten.sin.default, (x,)), Call(aten.cos.default, (x,))))

    assert wave.roots == (aten.sin.default, aten.cos.default)
    assert rewrites(wave, lambda x, y, w: x.sin() + y.cos()) == 2


@rewrite(relu)
def optional_scale(x: Expr) -> Expr:
    sine = Call(aten.sin.default, (x,))
    return Maybe(sine * 2.0, sine) + 1.0


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda x, y, w: x.sin() * 2.0 + 1.0, 1),
        (lambda x, y, w: x.sin() + 1.0, 1),
        (lambda x, y, w: x.sin() * 3.0 + 1.0, 0),
    ],
)
def test_an_optional_call_may_be_left_out(function: Function, count: int) -> None:
    assert rewrites(optional_scale, function) == count


def test_an_interior_node_with_another_user_blocks_the_match() -> None:
    def function(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        total = x + y
        return total * 2.0 + total

    assert rewrites(scaled_sum, function) == 0

    def first(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        total = x + y
        return total.sin() + total * 2.0

    gm = graph_of(first)
    root = next(node for node in gm.graph.nodes if node.target is aten.mul.Tensor)
    found = match_rule(scaled_sum, root)
    assert isinstance(found, Miss)
    assert (found.node, found.reason) == ("add", "add is also used outside the pattern")


@rewrite(relu)
def sine_of_swapped(x: Expr) -> Expr:
    return Call(aten.sin.default, (Call(aten.transpose.int, (x, 1, 2)),))


def test_an_interior_node_that_computes_nothing_may_stay_for_others() -> None:
    def function(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        swapped = x.transpose(1, 2)
        return swapped.sin() + swapped

    gm = graph_of(function)
    assert apply_rules(gm, [sine_of_swapped], lambda: True).total == 1
    assert "aten.transpose.int" in targets(gm)


def test_arguments_left_out_are_the_operators_defaults() -> None:
    @rewrite(relu)
    def gelu(x: Expr) -> Expr:
        return Call(aten.gelu.default, (x,))

    assert rewrites(gelu, lambda x, y, w: nn.functional.gelu(x)) == 1
    assert rewrites(gelu, lambda x, y, w: nn.functional.gelu(x, approximate="none")) == 1
    assert rewrites(gelu, lambda x, y, w: nn.functional.gelu(x, approximate="tanh")) == 0


def test_lists_match_item_by_item() -> None:
    @rewrite(relu, where=always)
    def joined(x: Expr, y: Expr) -> Expr:
        return Call(aten.cat.default, ([x, y], -1))

    assert isinstance(attempt(joined, lambda x, y, w: torch.cat((x, y), -1)), Match)
    assert rewrites(joined, lambda x, y, w: torch.cat((x, y, x), -1)) == 0
    assert "expected 2 items" in miss(joined, lambda x, y, w: torch.cat((x, y, x), -1)).reason


def declines_weights(match: Match) -> str | None:
    return "the second operand is a weight" if isinstance(match.y, Node) and match.y.op == "get_attr" else None


@rewrite(relu, where=declines_weights)
def sum_of_activations(x: Expr, y: Expr) -> Expr:
    return Call(aten.sin.default, (x + y,))


def test_a_guard_declines_with_its_reason() -> None:
    assert rewrites(sum_of_activations, lambda x, y, w: (x + y).sin()) == 1
    gm = graph_of(lambda x, y, w: (x - w).sin())
    assert apply_rules(gm, [sum_of_activations], lambda: True).total == 0


def test_a_guard_may_decline_one_order_and_accept_the_other() -> None:
    found = attempt(sum_of_activations, lambda x, y, w: (x + w).sin())
    assert isinstance(found, Match)
    assert found.y.name == "x"


def test_a_guard_that_always_declines_is_the_reason_of_the_miss() -> None:
    @rewrite(relu, where=lambda match: "never")
    def never(x: Expr, y: Expr) -> Expr:
        return (x + y) * 2.0

    found = miss(never, lambda x, y, w: (x + y) * 2.0)
    assert (found.root, found.node, found.reason) == ("mul", "mul", "never")
    assert str(found).startswith("never at mul: stopped at mul: never (graphs.py:")
    assert found.source.endswith(" `return self.function(x, y, self.weight)`")


def test_a_miss_names_the_node_where_matching_got_furthest() -> None:
    @rewrite(relu)
    def deep(x: Expr) -> Expr:
        return Call(aten.exp.default, (Call(aten.cos.default, (Call(aten.sin.default, (x,)),)),)) * 2.0

    found = miss(deep, lambda x, y, w: x.tan().cos().exp() * 2.0)
    assert found.node == "tan"
    assert found.reason == "expected aten.sin.default, found aten.tan.default"
    assert found.depth == 3


def test_what_a_match_binds_can_be_asked_by_name() -> None:
    gm = graph_of(lambda x, y, w: (x + y) * 2.0)
    root = next(node for node in gm.graph.nodes if node.target is aten.mul.Tensor)
    found = match_rule(scaled_sum, root)
    assert isinstance(found, Match)
    assert (found.x.name, found.y.name) == ("x", "y")
    with pytest.raises(AttributeError, match="z"):
        _ = found.z
