"""After CANONICALIZE nothing is in primitive form in the families that a recipe lists; elsewhere it is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from autodeploy.choosing import Recipe
from autodeploy.errors import InvariantError
from autodeploy.export import trace_model
from autodeploy.leftovers import describe, find_leftovers
from autodeploy.optimizer import Compiled, compile_graph
from autodeploy.pipeline import PassReport
from autodeploy.testing.families import FAMILIES
from autodeploy.weights.source import RandomSource
from tests.families import VARIANTS, config_of, default_recipe
from tests.graphs import Of, clean, trace

QUICK = ("llama", "gpt2", "cohere")
aten = torch.ops.aten
WORDS = {
    "canonicalize_norms": "a norm",
    "canonicalize_rotary": "a rotary embedding",
    "canonicalize_mlps": "an activation",
}


def compiled(family: str, recipe: Callable[[Recipe], Recipe] = lambda one: one, options: object = None) -> Compiled:
    config = config_of(family, options)  # type: ignore[arg-type]
    traced = trace_model(config, torch.float32)
    return compile_graph(traced, recipe(default_recipe(config)), RandomSource.of(traced.model), torch.device("cpu"))


def without(name: str) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, passes=tuple(one for one in recipe.passes if one[0] != name))


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_nothing_is_left_in_a_listed_family(family: str) -> None:
    result = compiled(family)
    assert result.recipe.leaves_nothing  # it would have raised
    assert result.leftovers == ()


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_left_in_a_variant_of_one(variant: str) -> None:
    family, options = VARIANTS[variant]
    assert compiled(family, options=options).leftovers == ()


@pytest.mark.parametrize("name", WORDS)
def test_without_a_pass_what_it_replaces_is_left_and_reported(name: str) -> None:
    result = compiled("llama", without(name))
    assert not result.recipe.leaves_nothing
    assert {place.rule for place in result.leftovers} == {WORDS[name]}
    assert describe(result.leftovers)[0].startswith(f"left in primitive form: {WORDS[name]} at ")


def test_what_is_left_in_a_listed_family_is_an_error_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class OddNorm(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            variance = hidden_states.pow(2).abs().mean(-1, keepdim=True)
            return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))

    monkeypatch.setattr(LlamaRMSNorm, "forward", OddNorm.forward)
    told = (
        r"after CANONICALIZE: left in primitive form: a norm at rsqrt \(model.layers.\*.input_layernorm,"
        r" test_leftovers.py:\d+ `return .*`\), 2 times; \w+ stopped at abs_1: expected aten.pow.Tensor_Scalar, found"
    )
    with pytest.raises(InvariantError, match=told):
        compiled("llama")


def test_the_reports_are_out_before_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: x * torch.rsqrt(x.abs().mean(-1, keepdim=True)))
    config = config_of("llama")
    traced = trace_model(config, torch.float32)
    seen: list[PassReport] = []
    source, cpu = RandomSource.of(traced.model), torch.device("cpu")
    with pytest.raises(InvariantError):
        compile_graph(traced, default_recipe(config), source, cpu, observe=seen.append)
    assert "canonicalize_mlps" in [report.name for report in seen]


def test_an_unlisted_family_gets_a_note() -> None:
    recipe = default_recipe(config_of("helium"))
    assert not recipe.leaves_nothing
    assert any("no recipe knows the architecture" in note for note in recipe.notes)


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x * x.pow(2).mean(-1, True).add(1e-5).rsqrt(), "a norm"),
        (lambda x: x / (x.pow(2).mean(-1, True) + 1e-5).sqrt(), "a norm"),
        (lambda x: x * (x.var(-1, keepdim=True) + 1e-5).pow(-0.5), "a norm"),
        (lambda x: torch.cat((-x[..., 4:], x[..., :4]), -1), "a rotary embedding"),
        (lambda x: torch.stack((-x[..., 1::2], x[..., ::2]), -1), "a rotary embedding"),
        (lambda x: torch.cat([part * sign for part, sign in zip(x.chunk(2, -1), (1, 1), strict=True)], -1), None),
        (lambda x: x * x.sigmoid(), "an activation"),
        (lambda x: x * (1.702 * x).sigmoid(), "an activation"),
        (lambda x: x * x.flip(-1).sigmoid(), None),  # the gate of something else
        (lambda x: 0.5 * x * (1 + (x * 0.8).tanh()), "an activation"),
        (lambda x: 30.0 * (x / 30.0).tanh(), None),  # a soft cap
        (lambda x: torch.erf(x), "an activation"),
        (lambda x: torch.nn.functional.gelu(x), "an activation"),
        (lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x, "attention"),
        (lambda x: x.softmax(-1), None),  # routing over a fixed number of experts
        (lambda x: x.sqrt(), None),
        (lambda x: x.pow(2), None),
        (lambda x: torch.cat((x, -x), -1), None),
    ],
)
def test_telltales(function: Callable[[Tensor], Tensor], kind: str | None) -> None:
    found = find_leftovers(clean(trace(Of(function), torch.rand(1, 6, 8))).graph)
    assert [place.rule for place in found] == ([] if kind is None else [kind])
