"""The check of a pattern: what it accepts, what it refuses, and what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autodeploy.errors import InputError
from autodeploy.patterns.norms import rms_norm, rms_norm_of_heads, rms_norm_wide_scale
from autodeploy.patterns.rotary import rope
from autodeploy.rewrite import AnyOf, Call, Expr, Maybe, Rule, Var, rewrite
from autodeploy.testing import check_pattern, relative_error, sample_inputs
from autodeploy.testing.patterns import forms_of

aten = torch.ops.aten
rms_norm_op = torch.ops.autodeploy.rms_norm.default
activate_op = torch.ops.autodeploy.activate.default


@rewrite(activate_op, kind="silu")
def swish(x: Expr) -> Expr:
    return x * Call(aten.sigmoid.default, (x,))


@rewrite(activate_op, kind="gelu")
def not_gelu(x: Expr) -> Expr:
    return Call(aten.gelu.default, (x, "tanh"))


@rewrite(activate_op, kind="silu")
def one_form_is_wrong(x: Expr) -> Expr:
    return AnyOf((Call(aten.silu.default, (x,)), x * Call(aten.sigmoid.default, (x * 1.702,))))


@rewrite(lambda x: Call(aten.sum.dim_IntList, (x, [-1])))
def of_another_shape(x: Expr) -> Expr:
    return Call(aten.sum.dim_IntList, (x, [-1], True))


@rewrite(lambda x: Call(aten.to.dtype, (Call(aten.relu.default, (x,)), torch.float32)))
def of_another_dtype(x: Expr) -> Expr:
    return Call(aten.relu.default, (x,))


@rewrite(lambda x: Call(aten.log.default, (x,)))
def not_a_number(x: Expr) -> Expr:
    return Call(aten.sin.default, (x,))


@pytest.mark.parametrize("rule", [swish, rms_norm, rms_norm_wide_scale], ids=lambda rule: rule.name)
def test_a_right_pattern_needs_no_inputs(rule: Rule) -> None:
    check_pattern(rule)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (not_gelu, r"not_gelu in float32: relative error \d\.\de-0\d, above 2e-06"),
        (one_form_is_wrong, "one_form_is_wrong in float32: relative error"),
        (of_another_shape, r"the replacement is \(3, 6\), not \(3, 6, 1\)"),
        (of_another_dtype, "in bfloat16: the replacement is torch.float32, not torch.bfloat16"),
        (not_a_number, "not_a_number in float32: relative error nan"),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_a_wrong_one_is_refused_with_its_name_and_error(rule: Rule, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_pattern(rule)


def test_an_error_that_only_a_dtype_allows_is_refused_in_the_others() -> None:
    check_pattern(not_gelu, dtypes=[torch.bfloat16])
    with pytest.raises(AssertionError, match="not_gelu in float32"):
        check_pattern(not_gelu, dtypes=[torch.bfloat16, torch.float32])


def test_rounding_elsewhere_is_refused_where_asked() -> None:
    once = rewrite(rms_norm_op, where=lambda match: None, scale_in_float32=False)(_scaled_wide)
    check_pattern(once)
    with pytest.raises(AssertionError, match=r"in bfloat16: .*% of the elements are rounded otherwise"):
        check_pattern(once, same_rounding=True)


def _scaled_wide(x: Expr, weight: Expr, eps: Expr) -> Expr:
    return rms_norm_wide_scale.pattern


def test_inputs_of_ones_own_are_used() -> None:
    def positive(dtype: torch.dtype) -> dict[str, Any]:
        return {"x": torch.rand(4, 4).add(0.5).to(dtype)}

    same = rewrite(lambda x: Call(aten.relu.default, (x,)))(lambda x: Call(aten.abs.default, (x,)))
    check_pattern(same, positive)
    with pytest.raises(AssertionError):
        check_pattern(same)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    check_pattern(swish)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("rule", "says"),
    [(rope, r"rope: no guess for 'last' \(dim: int\); give inputs="), (rms_norm_of_heads, "does not fit it")],
    ids=["a dimension", "a shape"],
)
def test_what_cannot_be_guessed_is_said(rule: Rule, says: str) -> None:
    with pytest.raises(InputError, match=says):
        sample_inputs(rule)


def test_guesses_vary_so_little_somewhere_that_an_epsilon_decides() -> None:
    drawn = sample_inputs(rms_norm)(torch.bfloat16)
    assert drawn["x"].dtype == drawn["weight"].dtype == drawn["out_dtype"] == torch.bfloat16
    assert drawn["compute_dtype"] == torch.float32
    variances = drawn["x"].float().pow(2).mean(-1)
    assert float(variances.min()) < drawn["eps"] < float(variances.max())


def test_every_alternative_is_a_form() -> None:
    x, y = Var("x"), Var("y")
    alternatives = AnyOf((x + y, Call(aten.sub.Tensor, (x, y))))
    forms = list(forms_of(Call(aten.cat.default, ([alternatives, Maybe(x * 2, x)], -1))))
    assert len(forms) == len(set(map(str, forms))) == 3
    assert list(forms_of(x)) == [x]


def test_a_row_of_zeros_has_an_error_too() -> None:
    reference = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert relative_error(reference.clone(), reference) == 0.0
    assert relative_error(reference + torch.tensor([[0.0, 0.5], [0.0, 0.0]]), reference) == pytest.approx(0.1)
    assert relative_error(reference + torch.tensor([[0.0, 0.0], [0.0, 0.1]]), reference) > 1.0
