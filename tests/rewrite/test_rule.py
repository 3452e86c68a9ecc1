from __future__ import annotations

import pytest
import torch

from autodeploy.rewrite import AnyOf, Call, Cast, Expr, Maybe, Var, cast, evaluate, rewrite
from autodeploy.rewrite.expression import getitem

aten = torch.ops.aten
rms_norm_op = torch.ops.autodeploy.rms_norm.default


def test_holes_are_the_parameters_and_the_name_is_the_functions() -> None:
    @rewrite(rms_norm_op)
    def norm(x: Expr, weight: Expr, eps: Expr) -> Expr:
        """A norm."""
        return weight * (x + eps)

    assert (norm.name, norm.doc, norm.holes) == ("norm", "A norm.", ("x", "weight", "eps"))
    assert norm.replacement == Call(rms_norm_op, (Var("x"), Var("weight"), Var("eps"), 0.0, False))


def test_constants_and_defaults_fill_what_no_hole_gives() -> None:
    @rewrite(rms_norm_op, weight=None, eps=1e-6)
    def norm(x: Expr) -> Expr:
        return -x

    assert norm.replacement == Call(rms_norm_op, (Var("x"), None, 1e-6, 0.0, False))


def test_a_missing_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="needs 'eps', which is no hole"):

        @rewrite(rms_norm_op)
        def norm(x: Expr, weight: Expr) -> Expr:
            return x * weight


def test_a_constant_that_the_operator_lacks_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="has no argument 'epsilon'"):

        @rewrite(rms_norm_op, epsilon=1e-6)
        def norm(x: Expr, weight: Expr, eps: Expr) -> Expr:
            return x * weight + eps


def test_a_hole_that_nothing_uses_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="the hole 'scale' of norm is used by no replacement and no guard"):

        @rewrite(rms_norm_op)
        def norm(x: Expr, weight: Expr, eps: Expr, scale: Expr) -> Expr:
            return x * weight * scale + eps


def test_a_hole_that_the_pattern_never_binds_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="the pattern norm does not contain its hole 'eps'"):

        @rewrite(rms_norm_op)
        def norm(x: Expr, weight: Expr, eps: Expr) -> Expr:
            return x * weight


def test_a_replacement_of_what_is_no_hole_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="the replacement of negated has 'y', which is no hole"):

        @rewrite(lambda x, y: x + y)
        def negated(x: Expr) -> Expr:
            return -x


def test_a_hole_that_only_the_guard_uses_is_fine() -> None:
    @rewrite(lambda x: -x, where=lambda match: None if match.y is None else "y is given")
    def total(x: Expr, y: Expr) -> Expr:
        return x + y

    assert total.holes == ("x", "y")


def test_a_pattern_must_begin_with_an_operator() -> None:
    @rewrite(lambda x: -x)
    def anything(x: Expr) -> Expr:
        return x

    with pytest.raises(TypeError, match="must begin with an operator"):
        _ = anything.roots


def test_a_cast_or_an_option_at_the_root_adds_roots() -> None:
    @rewrite(lambda x: -x)
    def maybe_cast(x: Expr) -> Expr:
        sine = Call(aten.sin.default, (x,))
        return Maybe(cast(sine, Var("dtype")), AnyOf((sine, Call(aten.cos.default, (x,)))))

    assert maybe_cast.roots == (aten.to.dtype, aten.sin.default, aten.cos.default)


def test_evaluating_takes_the_first_choice_and_what_is_optional() -> None:
    x = torch.tensor([1.0, -2.0])
    first = AnyOf((Var("x") * 2.0, Var("x") * 3.0))
    optional = Maybe(-first, first)
    assert evaluate(optional, {"x": x}).tolist() == [-2.0, 4.0]


def test_evaluating_arithmetic_casts_lists_and_results() -> None:
    x, y = Var("x"), Var("y")
    values = {"x": torch.tensor([4.0]), "y": torch.tensor([2.0]), "dtype": torch.float64}
    assert evaluate((x + y) * (x - y) / y, values).item() == 6.0
    assert evaluate(1.0 + 2.0 * x, values).item() == 9.0
    assert evaluate(Cast(x, Var("dtype")), values).dtype == torch.float64
    assert evaluate(Call(aten.cat.default, ([x, y],)), values).tolist() == [4.0, 2.0]
    assert evaluate(getitem(Call(aten.split.Tensor, (x, 1)), 0), values).tolist() == [4.0]


def test_evaluating_an_unbound_hole_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="y"):
        evaluate(Var("x") + Var("y"), {"x": torch.ones(1)})
