"""Folders with quantized checkpoints: what a build takes, writes and says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import autodeploy as ad
from autodeploy.errors import CheckpointError, ModelError, UnsupportedError
from autodeploy.export import load_config
from tests.checkpoints import test_gptq_and_awq as gptq
from tests.checkpoints import test_modelopt as modelopt
from tests.checkpoints.checks import TOKEN_IDS, Tensors, config, encode, plain

PROMPTS = [TOKEN_IDS]


def write(folder: Path, tensors: Tensors, quantization: dict[str, Any] | None) -> Path:
    folder.mkdir()
    found = config(quantization)
    found.architectures = ["LlamaForCausalLM"]
    found.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def answers(folder: Path) -> list[int]:
    outputs = ad.LLM(str(folder), gpu="cpu").generate(
        PROMPTS, ad.SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    )
    return list(outputs[0].outputs[0].token_ids)


def test_a_build_keeps_what_is_packed(tmp_path: Path) -> None:
    stored, numbers = encode(plain(), gptq.gptq(act_order=True))
    packed = write(tmp_path / "gptq", stored, gptq.gptq_settings(act_order=True))
    build: dict[str, Any] = {"gpu": "cpu", "dtype": "fp32"}
    built = ad.build(str(packed), out=tmp_path / "packed", **build)
    ad.build(str(write(tmp_path / "plain", numbers, None)), out=tmp_path / "numbers", **build)
    model: Any = built.manifest.details["model"]
    assert model["stored"] == "gptq: 4 bits, groups of 32, act-order"
    held = {name: one for file in (tmp_path / "packed").glob("*.safetensors") for name, one in load_file(file).items()}
    codes = [name for name, one in held.items() if one.dtype is torch.uint8]
    assert len(codes) == 2 * 4
    assert answers(tmp_path / "packed") == answers(tmp_path / "numbers")


def test_the_settings_of_modelopts_own_file(tmp_path: Path) -> None:
    stored, _ = encode(plain(), modelopt.write("FP8"))
    folder = write(tmp_path / "model", stored, None)
    settings = {name: value for name, value in modelopt.settings("FP8").items() if name != "quant_method"}
    (folder / "hf_quant_config.json").write_text(json.dumps(settings))
    assert load_config(folder).quantization_config["quant_method"] == "modelopt"
    built = ad.build(str(folder), out=tmp_path / "out", gpu="cpu", dtype="fp32")
    assert "scaled_" in (tmp_path / "out" / "graph.json").read_text()
    model: Any = built.manifest.details["model"]
    assert model["stored"] == "modelopt: FP8"
    (folder / "hf_quant_config.json").write_text("[")
    with pytest.raises(ModelError, match=r"hf_quant_config\.json is damaged"):
        load_config(folder)


def test_the_file_of_what_is_missing_is_named(tmp_path: Path) -> None:
    stored, _ = encode(plain(), gptq.gptq())
    missing = "model.layers.1.self_attn.o_proj.scales"
    del stored[missing]
    folder = write(tmp_path / "model", stored, gptq.gptq_settings())
    with pytest.raises(CheckpointError, match=rf"model/model\.safetensors holds .* and lacks {missing}"):
        ad.build(str(folder), out=tmp_path / "out", gpu="cpu")
    assert not (tmp_path / "out").exists()


def test_an_unknown_form_is_refused_before_anything_is_traced(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", plain(), {"quant_method": "quip"})
    with pytest.raises(UnsupportedError, match=r"quant_method 'quip' is not a form .*: awq, compressed-tensors, fp8,"):
        ad.build(str(folder), out=tmp_path / "out", gpu="cpu")
