"""Rules: globs, layers, kinds, and what is left alone."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from autodeploy.errors import RecipeError
from autodeploy.quantization import SCHEMES, Projection, Rule, Scheme, decide, find_scheme, name_of

UP = Projection("model.layers.3.mlp.up_proj", (256, 128))
HEAD = Projection("lm_head", (1000, 128), "head")


def test_the_first_rule_that_matches_decides() -> None:
    rules = [Rule(match="*.mlp.*", scheme="int4"), Rule(scheme="int8")]
    assert decide(UP, rules, "fp8").scheme == SCHEMES["int4"]
    assert decide(Projection("model.layers.3.self_attn.q_proj", (64, 128)), rules, "fp8").scheme == SCHEMES["int8"]
    assert decide(UP, [], "fp8").scheme == SCHEMES["fp8"]


@pytest.mark.parametrize(("layers", "held"), [("3", True), ("0-3", True), ("4-9", False), ("0,2-3", True), (3, True)])
def test_layers_include_their_ends(layers: str, held: bool) -> None:
    assert Rule(layers=layers, scheme="int4").matches(UP) is held
    assert not Rule(layers=layers, scheme="int4").matches(HEAD)


def test_the_head_is_left_alone_unless_a_rule_names_it() -> None:
    assert not decide(HEAD, [Rule(scheme="fp8")], "fp8").scheme.is_quantized
    assert decide(HEAD, [Rule(kind="head", scheme="int8")], "fp8").scheme == SCHEMES["int8"]
    assert decide(HEAD, [Rule(match="lm_*", scheme="int8")], "fp8").scheme == SCHEMES["int8"]
    assert not Rule(kind="head", scheme="int8").matches(UP)


def test_the_head_has_a_scheme_of_its_own_which_rules_override() -> None:
    found = decide(HEAD, [Rule(scheme="int4")], "int4", head="int8")
    assert (found.scheme, found.reason) == (SCHEMES["int8"], "head int8")
    assert decide(HEAD, [Rule(match="lm_*", scheme="none")], "int4", head="int8").scheme == SCHEMES["none"]
    assert decide(UP, [], "int4", head="int8").scheme == SCHEMES["int4"]
    odd = decide(Projection("lm_head", (1000, 100), "head"), [], "none", head="int4")
    assert odd.reason == "head int4, but its 100 inputs are no multiple of the group of 128"


def test_a_shape_that_a_scheme_does_not_allow_falls_back_and_says_why() -> None:
    found = decide(Projection("proj", (576, 576)), [], "int4")
    assert not found.scheme.is_quantized
    assert found.reason == "scheme int4, but its 576 inputs are no multiple of the group of 128"
    assert decide(Projection("proj", (576, 576)), [], "int4_g64").scheme.is_quantized


def test_a_rule_can_spell_its_scheme() -> None:
    rule = Rule.model_validate({"match": "*", "scheme": {"weights": "int8", "scope": "group", "group": 16}})
    assert decide(UP, [rule], "none").scheme == Scheme(weights="int8", scope="group", group=16)
    assert name_of(rule.resolved) == "weights int8, scope group, group 16"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scheme": "int5"}, "there is no scheme 'int5'; did you mean 'int8'"),
        ({"scheme": "int4", "layers": "2-"}, "layers are numbers and ranges"),
        ({"scheme": {"weights": "int4"}}, "int4 has a scale for each group"),
        ({"scheme": {"weights": "nvfp4", "scope": "group", "group": 32}}, "nvfp4 has groups of 16"),
        ({"scheme": {"weights": "int8", "scope": "group"}}, "a group has a size"),
        ({"scheme": {"weights": "int8", "zeros": True}}, "only int4 has zero points"),
        ({"scheme": {"weights": "mxfp4", "scope": "group", "group": 32, "activations": "dynamic"}}, "which mxfp4"),
    ],
)
def test_what_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rule.model_validate(fields)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"--quantize fp9: no such scheme; did you mean 'fp8'\?"):
        find_scheme("fp9", "--quantize")


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_has_one_name_and_describes_itself(name: str) -> None:
    assert name_of(SCHEMES[name]) == name
    assert str(SCHEMES[name])
