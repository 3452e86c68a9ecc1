"""Patterns of several outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy.rewrite import Call, Expr, Outputs, evaluate, rewrite
from tests.graphs import targets
from tests.rewrite.graphs import Function, graph_of, rewritten

aten = torch.ops.aten


@rewrite(lambda x, w: (Call(aten.silu.default, (x,)) * w, Call(aten.silu.default, (x,)) - w))
def product_and_difference(x: Expr, w: Expr) -> tuple[Expr, Expr]:
    """Two results, neither a part of the other."""
    swish = x * Call(aten.sigmoid.default, (x,))
    return swish * w, swish - w


def _of_squares(x: Expr) -> tuple[Expr, Expr]:
    grown = Call(aten.exp.default, (Call(aten.square.default, (x,)),))
    return Call(aten.cos.default, (grown,)), Call(aten.sin.default, (grown,))


@rewrite(_of_squares)
def cosine_and_sine(x: Expr) -> tuple[Expr, Expr]:
    """Two results that have all but the last call in common, none of which they read themselves."""
    squared = Call(aten.exp.default, (x * x,))
    return Call(aten.cos.default, (squared,)), Call(aten.sin.default, (squared,))


@rewrite(lambda x: (Call(aten.silu.default, (x,)), Call(aten.neg.default, (Call(aten.silu.default, (x,)),))))
def swish_and_opposite(x: Expr) -> tuple[Expr, Expr]:
    """A result that is a part of the other."""
    swish = x * Call(aten.sigmoid.default, (x,))
    return swish, -swish


def test_both_results_are_replaced() -> None:
    gm = graph_of(lambda x, y, w: (lambda swish: swish * (-swish).exp())(x * x.sigmoid()))
    assert rewritten(gm, swish_and_opposite).applied == {"swish_and_opposite": 1}
    assert "aten.sigmoid.default" not in targets(gm)


def test_results_that_are_no_parts_of_each_other_are_found() -> None:
    def function(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        swish = x * x.sigmoid()
        return (swish * w).exp() + (swish - w)

    gm = graph_of(function)
    assert rewritten(gm, product_and_difference).total == 1
    assert "aten.sigmoid.default" not in targets(gm)


def test_results_behind_what_they_have_in_common_are_found() -> None:
    gm = graph_of(lambda x, y, w: (lambda squared: squared.cos() * squared.sin())((x * x).exp()))
    assert rewritten(gm, cosine_and_sine).total == 1
    assert targets(gm).count("aten.exp.default") == 1


def test_an_output_that_is_used_before_the_last_one_is_there() -> None:
    def function(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        swish = x * x.sigmoid()
        early = swish.exp().cos()
        return early + (-swish)

    gm = graph_of(function)
    assert rewritten(gm, swish_and_opposite).total == 1


def test_an_input_that_is_computed_from_an_output_declines() -> None:
    def function(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        swish = x * x.sigmoid()
        return swish.exp() * swish.cos()

    @rewrite(lambda x, w: (Call(aten.silu.default, (x,)), Call(aten.silu.default, (x,)) * w))
    def scaled(x: Expr, w: Expr) -> tuple[Expr, Expr]:
        swish = x * Call(aten.sigmoid.default, (x,))
        return swish, Call(aten.cos.default, (swish,)) * w

    result = rewritten(graph_of(function), scaled)
    assert result.total == 0
    assert [miss.reason for miss in result.misses] == ["exp is computed only after exp, which uses an output"]


@pytest.mark.parametrize("function", [lambda x, y, w: (x * x.sigmoid()).neg(), lambda x, y, w: (x * y.sigmoid()).neg()])
def test_a_pattern_of_two_outputs_needs_both(function: Function) -> None:
    @rewrite(lambda x: (Call(aten.silu.default, (x,)), Call(aten.exp.default, (x,))))
    def two(x: Expr) -> tuple[Expr, Expr]:
        return Call(aten.exp.default, (x,)), -(x * Call(aten.sigmoid.default, (x,)))

    assert rewritten(graph_of(function), two).total == 0


def test_an_operator_with_several_results_replaces_several_outputs() -> None:
    @rewrite(aten.aminmax.default)
    def extremes(self: Expr, dim: Expr, keepdim: Expr) -> tuple[Expr, Expr]:
        return Call(aten.amin.default, (self, [dim], keepdim)), Call(aten.amax.default, (self, [dim], keepdim))

    assert isinstance(extremes.replacement, Outputs)
    gm = graph_of(lambda x, y, w: x.amin(2, True) * x.amax(2, True))
    assert rewritten(gm, extremes).total == 1
    assert targets(gm).count("aten.aminmax.default") == 1
    gm = graph_of(lambda x, y, w: x.amin(2, True) * y.amax(2, True))
    assert rewritten(gm, extremes).total == 0


@rewrite(torch.ops.autodeploy.add_rms_norm.default)
def residual_norm(x: Expr, residual: Expr, weight: Expr, eps: Expr) -> tuple[Expr, Expr]:
    """A residual sum that is normalized, and goes on as the next residual."""
    total = x + residual
    return Call(torch.ops.autodeploy.rms_norm.default, (total, weight, eps)), total


def test_a_residual_sum_and_its_norm_become_one_call() -> None:
    def layers(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        for _ in range(3):
            x = x + y
            y = torch.ops.autodeploy.rms_norm(x, w, 1e-5).sin()
        return x + y

    gm = graph_of(layers)
    assert rewritten(gm, residual_norm).total == 3
    assert targets(gm).count("aten.add.Tensor") == 1
    assert rewritten(graph_of(lambda x, y, w: torch.ops.autodeploy.rms_norm(x * y, w, 1e-5)), residual_norm).total == 0


def test_outputs_evaluate_to_a_list() -> None:
    x = torch.randn(3)
    first, second = evaluate(swish_and_opposite.pattern, {"x": x})
    torch.testing.assert_close(first, torch.nn.functional.silu(x))
    torch.testing.assert_close(second, -first)


def test_a_replacement_has_as_many_outputs_as_its_pattern() -> None:
    with pytest.raises(TypeError, match="differ in their number of outputs"):

        @rewrite(lambda x: Call(aten.sin.default, (x,)))
        def two(x: Expr) -> tuple[Expr, Expr]:
            return x + 1, x + 2
