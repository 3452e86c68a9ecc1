from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule

from autodeploy.rewrite import Call, Expr, apply_rules, rewrite
from tests.graphs import Of, clean, context, targets, trace

aten = torch.ops.aten


def graph_of(function: Callable[[Tensor], Tensor]) -> GraphModule:
    return clean(trace(Of(function), torch.randn(1, 6, 4)))


@rewrite(lambda x: Call(aten.cos.default, (x,)))
def sine(x: Expr) -> Expr:
    return Call(aten.sin.default, (x,))


def test_the_result_computes_what_the_replacement_says() -> None:
    gm = graph_of(lambda x: x.sin() + x)
    apply_rules(gm, [sine], lambda: True)
    gm.graph.lint()
    gm.recompile()
    x = torch.randn(1, 3, 4)
    torch.testing.assert_close(gm(x), x.cos() + x)


def test_a_rewrite_leaves_types_and_its_name_on_the_new_node() -> None:
    gm = graph_of(lambda x: x.sin())
    apply_rules(gm, [sine], lambda: True)
    (new,) = gm.graph.find_nodes(op="call_function", target=aten.cos.default)
    assert new.meta["rule"] == "sine"
    assert new.meta["val"].dtype == torch.float32
    assert str(new.meta["val"].shape) == str(next(iter(gm.graph.nodes)).meta["val"].shape)


def test_fuel_stops_after_as_many_rewrites() -> None:
    for fuel in range(5):
        gm, ctx = graph_of(lambda x: x.sin().sin().sin()), context(fuel)
        assert ctx.rewrite(gm, [sine]) == min(fuel, 3)
        assert targets(gm).count("aten.cos.default") == min(fuel, 3)


def test_earlier_rules_win() -> None:
    @rewrite(lambda x: Call(aten.relu.default, (x,)))
    def doubled_sine(x: Expr) -> Expr:
        return Call(aten.sin.default, (x * 2.0,))

    for rules in ([sine, doubled_sine], [doubled_sine, sine]):
        assert apply_rules(graph_of(lambda x: (x * 2.0).sin()), rules, lambda: True).applied == {rules[0].name: 1}


def test_what_a_rewrite_leaves_unused_blocks_no_later_match() -> None:
    @rewrite(lambda x: Call(aten.relu.default, (x,)))
    def scaled_sine(x: Expr) -> Expr:
        return Call(aten.sin.default, (x,)) * 2.0

    @rewrite(lambda x: Call(aten.tanh.default, (x,)))
    def double_of_exp(x: Expr) -> Expr:
        return Call(aten.exp.default, (x,)) + 1.0

    def function(x: Tensor) -> Tensor:
        exp = x.exp()
        return exp.sin() * 2.0 + (exp + 1.0)

    gm = graph_of(function)
    assert apply_rules(gm, [scaled_sine, double_of_exp], lambda: True).applied == {"scaled_sine": 1}

    def through_one_user(x: Tensor) -> Tensor:
        root = x.sin()
        return root * root

    @rewrite(lambda x: Call(aten.relu.default, (x,)))
    def square_of_sine(x: Expr) -> Expr:
        root = Call(aten.sin.default, (x,))
        return root * root

    gm = graph_of(through_one_user)
    assert apply_rules(gm, [square_of_sine], lambda: True).total == 1
    assert targets(gm) == ["aten.relu.default"]


def test_only_roots_that_looked_right_are_explained() -> None:
    @rewrite(lambda x: Call(aten.relu.default, (x,)))
    def deep(x: Expr) -> Expr:
        return Call(aten.exp.default, (Call(aten.cos.default, (Call(aten.sin.default, (x,)),)),)) * 2.0

    close = apply_rules(graph_of(lambda x: x.tan().cos().exp() * 2.0), [deep], lambda: True)
    far = apply_rules(graph_of(lambda x: x.tan() * 2.0), [deep], lambda: True)
    assert [miss.node for miss in close.misses] == ["tan"]
    assert far.misses == ()


def test_a_root_that_another_rule_rewrites_is_not_explained() -> None:
    @rewrite(lambda x: Call(aten.relu.default, (x,)))
    def deep(x: Expr) -> Expr:
        return Call(aten.exp.default, (Call(aten.cos.default, (Call(aten.sin.default, (x,)),)),)) * 2.0

    @rewrite(lambda x: Call(aten.relu.default, (x,)))
    def doubled(x: Expr) -> Expr:
        return x * 2.0

    result = apply_rules(graph_of(lambda x: x.tan().cos().exp() * 2.0), [deep, doubled], lambda: True)
    assert result.applied == {"doubled": 1}
    assert result.misses == ()
