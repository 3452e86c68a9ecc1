"""Quantized programs against plain ones over the same numbers, for tiny models of every family."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.graph.nodes import calls_of
from autodeploy.program import Program, ProgramSpec, cache_specs
from autodeploy.quantization import Scheme, dequantize, round_weight
from autodeploy.testing.families import FAMILIES, HAND_WRITTEN_FAMILIES, MAX_POSITIONS, VOCAB_SIZE, tiny_model
from autodeploy.weights import Expression, MemorySource, Quantized
from tests.families import Built, build, config_of, error, kernel_table, replay

QUICK = ("llama", "gpt2", "opt")
ops = torch.ops.autodeploy
PROJECTIONS = (ops.linear.default, ops.gated_linear.default, ops.linear_activation.default)
INT4 = {"weights": "int4", "scope": "group", "group": 16}
TOKEN_IDS = torch.randint(3, VOCAB_SIZE, (20,), generator=torch.manual_seed(1)).tolist()
STEPS = (12, *[1] * 8)
WEIGHT_ONLY = {
    "int8": "int8",
    "int8 in groups": {"weights": "int8", "scope": "group", "group": 16},
    "int4": INT4,
    "int4 with zeros": {**INT4, "zeros": True},
    "fp8": "fp8_weights",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
}


def rule(scheme: object) -> dict[str, Any]:
    return {"passes.mark_precision.rules": [{"scheme": scheme}]}


@cache
def source_of(family: str) -> MemorySource:
    return MemorySource(dict(tiny_model(config_of(family)).state_dict()))


@cache
def plain_of(family: str) -> Built:
    return build(config_of(family), source_of(family))


def program_over(built: Built, tensors: Mapping[str, Tensor]) -> Program:
    graph = built.graph_module
    spec = ProgramSpec(VOCAB_SIZE, MAX_POSITIONS, cache_specs(graph.graph))
    return Program(graph, tensors, kernel_table(), torch.device("cpu"), spec)


def rounded(weight: Tensor, scheme: Scheme) -> Tensor:
    parts = round_weight(weight, scheme)
    return dequantize(parts.values, parts.scale, parts.zero, parts.global_scale, scheme.weights)


def check_against_plain(family: str, values: Mapping[str, Any]) -> Built:
    """The quantized program gives the logits of the plain one whose weights have been rounded."""
    quantized, plain = build(config_of(family), source_of(family), values=values), plain_of(family)
    schemes: dict[Expression, Scheme] = {
        one.x: one.scheme for one in quantized.weights.values() if isinstance(one, Quantized)
    }
    tensors = dict(plain.tensors)
    projected = [str(call.args[1].target) for call in calls_of(plain.graph_module.graph, *PROJECTIONS)]  # type: ignore[union-attr]
    for name in projected:
        if plain.weights[name] in schemes:
            tensors[name] = rounded(tensors[name], schemes.pop(plain.weights[name]))
    assert not schemes
    wanted = replay(program_over(plain, tensors), TOKEN_IDS, STEPS)
    got = replay(quantized.program, TOKEN_IDS, STEPS)
    assert error(got, wanted) <= 1e-5
    assert error(got, replay(plain.program, TOKEN_IDS, STEPS)) > 1e-4  # it was rounded
    return quantized


def num_calls(built: Built, name: str) -> int:
    return sum(str(node.target) == f"autodeploy.{name}.default" for node in built.graph_module.graph.nodes)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in (*FAMILIES, *HAND_WRITTEN_FAMILIES)
    ],
)
def test_every_family(family: str) -> None:
    built = check_against_plain(family, rule(INT4))
    heads = num_calls(built, "linear") + num_calls(built, "gated_linear")
    assert num_calls(built, "packed_linear") + num_calls(built, "packed_gated_linear") >= 2 * 3
    assert num_calls(built, "linear_activation") == 0
    assert heads == 1


@pytest.mark.parametrize("name", WEIGHT_ONLY)
def test_every_format(name: str) -> None:
    check_against_plain("llama", rule(WEIGHT_ONLY[name]))


def test_the_head_when_a_rule_names_it() -> None:
    rules = [{"kind": "head", "scheme": "int8"}]
    check_head({"passes.mark_precision.rules": rules})


def test_the_head_by_an_option() -> None:
    check_head({"passes.mark_precision.head": "int8"})


def test_a_head_with_quantized_inputs() -> None:
    built = build(config_of("llama"), source_of("llama"), values={"passes.mark_precision.head": "fp8"})
    assert num_calls(built, "scaled_linear") == 1
    got, plain = (replay(one.program, TOKEN_IDS, STEPS) for one in (built, plain_of("llama")))
    assert 1e-4 < error(got, plain) <= 5e-2


def check_head(values: Mapping[str, Any]) -> None:
    built = check_against_plain("gemma", values)
    assert num_calls(built, "packed_linear") == 1
    assert any(name.startswith("model.embed_tokens") for name in built.weights)  # the tie: rows are still looked up
