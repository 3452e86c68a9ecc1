"""Calibrated checkpoints: what `autodeploy quantize` writes computes what a calibrated build does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import autodeploy as ad
from autodeploy.artifact import Artifact
from autodeploy.loading import load_program
from autodeploy.quality.compare import log_probs
from tests.families import error

TOKEN_IDS = list(range(3, 23))


def says(built: Artifact) -> torch.Tensor:
    return log_probs(load_program(built), TOKEN_IDS)


@pytest.mark.parametrize("name", ["awq_g32", "gptq_g32", "smoothquant", "int8_dynamic"])
def test_a_checkpoint_says_what_the_build_does(model_folder: Path, tmp_path: Path, name: str) -> None:
    if name in ("awq_g32", "smoothquant"):
        pytest.importorskip("scipy")  # it comes with modelopt
    prose = str(model_folder / "prose.txt")
    options: dict[str, Any] = {"quantize": name, "calibrate": prose, "dtype": "fp32"}
    ad.quantize(str(model_folder), out=tmp_path / "checkpoint", **options)
    direct = ad.build(str(model_folder), out=tmp_path / "direct", gpu="cpu", text="none", **options)
    built = ad.build(str(tmp_path / "checkpoint"), out=tmp_path / "built", gpu="cpu", dtype="fp32", text="none")
    assert error(says(built), says(direct)) < 1e-4


@pytest.mark.parametrize("name", ["awq_g32", "gptq_g32"])
def test_transformers_reads_it(model_folder: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("scipy")
    prose = str(model_folder / "prose.txt")
    options: dict[str, Any] = {"quantize": name, "calibrate": prose, "dtype": "fp32"}
    ad.quantize(str(model_folder), out=tmp_path / "checkpoint", **options)
    direct = ad.build(str(model_folder), out=tmp_path / "direct", gpu="cpu", text="none", **options)
    factory: Any = AutoModelForCausalLM
    model = factory.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([TOKEN_IDS])).logits[0, :-1]
    assert error(logits.log_softmax(-1), says(direct)) < 1e-4


def test_static_inputs_are_written_with_their_scale(model_folder: Path, tmp_path: Path) -> None:
    prose = str(model_folder / "prose.txt")
    ad.quantize(str(model_folder), out=tmp_path / "checkpoint", quantize="fp8_tensor", calibrate=prose)
    (group,) = json.loads((tmp_path / "checkpoint" / "config.json").read_text())["quantization_config"][
        "config_groups"
    ].values()
    assert group["input_activations"]["dynamic"] is False
    assert group["input_activations"]["strategy"] == "tensor"
