"""Quantized builds: what the artifact holds, what the plan says, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import autodeploy as ad
from autodeploy.errors import InputError, RecipeError
from autodeploy.job import plan
from autodeploy.optimizer import optimize, trace
from autodeploy.testing.families import tiny_config

PROMPT = [5, 6, 7, 8]


def answer(folder: Path) -> list[int]:
    out = ad.LLM(folder, engine="inline").generate([PROMPT], ad.SamplingParams(max_tokens=6, ignore_eos=True))
    return list(out[0].outputs[0].token_ids)


def test_an_artifact_holds_quantized_weights_and_answers(model_folder: Path, tmp_path: Path) -> None:
    found = ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", dtype="fp32", quantize="int8")
    tensors = found.read_weights()
    values = tensors["model.layers.0.mlp.down_proj.weight_values"]
    assert values.dtype == torch.int8
    assert tensors["model.layers.0.mlp.down_proj.weight_scale"].shape == (32, 1)
    assert "lm_head.weight" in tensors
    assert "model.layers.0.mlp.down_proj.weight" not in tensors
    assert len(answer(tmp_path / "out")) == 6


@pytest.mark.parametrize("scheme", ["fp8", "int8_dynamic", "nvfp4"])
def test_random_weights_are_quantized_too(model_folder: Path, tmp_path: Path, scheme: str) -> None:
    found = ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", quantize=scheme, load_format="random")
    weights = found.read_weights()
    assert all(weights[name].float().std() > 0 for name in weights if name.endswith("weight_values"))
    assert len(answer(tmp_path / "out")) == 6


def test_the_plan_says_the_scheme_and_the_build_is_another(model_folder: Path, tmp_path: Path) -> None:
    plain, quantized = (plan(str(model_folder), gpu="cpu", quantize=name) for name in (None, "fp8"))
    decisions = {one.what: one for one in quantized.decisions}
    assert decisions["quantize"].value == "fp8"
    assert decisions["quantize"].reason == "weights in fp8, a scale each output, inputs too, each token"
    assert "quantize" not in {one.what for one in plain.decisions}
    prints = [
        ad.build(str(model_folder), out=tmp_path / str(name), gpu="cpu", quantize=name).manifest.details["fingerprint"]
        for name in (None, "fp8")
    ]
    assert prints[0] != prints[1]


def test_what_does_not_fit_a_scheme_is_told(model_folder: Path, tmp_path: Path) -> None:
    found = ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", quantize="mxfp4")
    notes = next(one["notes"] for one in found.history if one["name"] == "mark_precision")
    assert any("mlp.down_proj" in note and "48 inputs are no multiple of the group of 32" in note for note in notes)
    assert any(note.startswith("mxfp4: ") for note in notes)


def test_an_artifact_has_its_own_scheme(model_folder: Path, tmp_path: Path) -> None:
    ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", quantize="int8")
    with pytest.raises(InputError, match="built with its own quantize; build it again with quantize=fp8"):
        ad.LLM(tmp_path / "out", quantize="fp8")


def test_an_unknown_scheme(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--quantize itn8: no such scheme; did you mean 'int8'"):
        ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", quantize="itn8")


def test_a_graph_can_be_quantized_without_a_build() -> None:
    result = optimize(trace(tiny_config("llama")), gpu="cpu", quantize="int8")
    assert result.history[-1].name == "choose_kernels"
    assert sum(name.endswith("weight_values") for name in result.weights) == 2 * 4
