"""Every built-in pattern computes what its replacement computes, and the least mistake in a replacement shows."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from autodeploy.patterns import PATTERNS
from autodeploy.patterns.attention import ATTENTIONS
from autodeploy.rewrite import Rule
from autodeploy.rewrite.expression import holes_of
from autodeploy.testing import check_pattern, mutants, surviving_mutants
from tests.patterns.samples import inputs_of

ROUNDS_OTHERWISE = frozenset(
    {
        "added_matmul",
        "attention",
        "attention_biased",
        "attention_capped",
        "attention_capped_biased",
        "attention_with_sinks",
        "biased_scores_divided",
        "biased_scores_scaled",
        "glu",
        "layer_norm_of_heads_by_hand",
        "linear_with_bias",
        "scores_biased_twice",
        "scores_cast",
        "scores_shifted",
        "soft_cap",
    }
)
"""Patterns that round where their replacement does not, so that in 16 bits only their errors can be compared."""

EQUIVALENT: Mapping[tuple[str, str], str] = {
    ("rms_norm_unscaled", "rms_norm.offset 0 -> 1"): "there is no weight that it is added to",
    ("rms_norm_unscaled", "rms_norm.scale_in_float32 flipped"): "there is no weight that multiplies",
    ("rms_norm_builtin_unscaled", "rms_norm.offset 0 -> 1"): "there is no weight that it is added to",
    ("rms_norm_builtin_unscaled", "rms_norm.scale_in_float32 flipped"): "there is no weight that multiplies",
    ("rope_of_neighbours_to_halves", "slice.start dropped"): "a slice without a start begins at 0",
    ("rope_of_neighbours_to_halves", "slice.end dropped"): "a slice without an end has all of the rest",
    ("rope_of_neighbours_to_halves", "slice.end dropped (2)"): "a slice without an end has all of the rest",
    **{
        (rule.name, "to left out (2)"): "the reference takes keys of any dtype; a cache does not"
        for rule in ATTENTIONS
        if rule.name != "attention_built_in"
    },
}
"""Mutants that compute the same function, by pattern and name, and why."""

each = pytest.mark.parametrize("rule", PATTERNS, ids=lambda rule: rule.name)


def rounds_alike(rule: Rule) -> bool:
    return rule.name not in ROUNDS_OTHERWISE


@each
def test_a_pattern_computes_what_replaces_it(rule: Rule) -> None:
    check_pattern(rule, inputs_of(rule), same_rounding=rounds_alike(rule))


@each
def test_a_mistake_in_a_replacement_is_caught(rule: Rule) -> None:
    names = {mutant.name for mutant in mutants(rule)}
    survivors = surviving_mutants(rule, inputs_of(rule), same_rounding=rounds_alike(rule))
    assert names
    assert survivors == [name for owner, name in EQUIVALENT if owner == rule.name]


def test_no_reason_is_stale() -> None:
    names = {(rule.name, mutant.name) for rule in PATTERNS for mutant in mutants(rule)}
    assert set(EQUIVALENT) <= names


def test_patterns_that_round_otherwise_do() -> None:
    named = [rule for rule in PATTERNS if not rounds_alike(rule)]
    assert {rule.name for rule in named} == ROUNDS_OTHERWISE
    for rule in named:
        with pytest.raises(AssertionError, match="rounded otherwise"):
            check_pattern(rule, inputs_of(rule), same_rounding=True)


@each
def test_a_pattern_says_what_it_is_and_binds_its_holes(rule: Rule) -> None:
    assert rule.doc.endswith(".")
    assert set(rule.holes) <= set(holes_of(rule.pattern))
    assert rule.roots


def test_names_are_unique() -> None:
    assert len({rule.name for rule in PATTERNS}) == len(PATTERNS)
