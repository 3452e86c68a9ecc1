"""Checkpoints as nvidia-modelopt exports them, written by that layout; where it is installed, it writes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.errors import CheckpointError, UnsupportedError
from autodeploy.graph.nodes import calls_of
from autodeploy.quantization import SCHEMES, dequantize, round_weight
from tests.checkpoints.checks import Encode, Tensors, check, encode, load, ops, plain

GROUP = 32
QUICK = ("FP8", "W4A16_AWQ")
ALGORITHMS = (
    *("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "W8A16", "W8A8_SQ_PER_CHANNEL"),
    *("W4A16_AWQ", "NVFP4", "NVFP4_AWQ", "MXFP4"),
)
EVERY = [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in ALGORITHMS]
FOLDED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""What modelopt's factors of the inputs are folded into the norm before."""


def settings(algorithm: str, **more: Any) -> dict[str, Any]:
    quantization = {"quant_algo": algorithm, "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"], **more}
    return {"quant_method": "modelopt", "producer": {"name": "modelopt"}, "quantization": quantization}


def fp8(weight: Tensor, algorithm: str) -> tuple[Tensors, Tensor]:
    rows, columns = weight.shape
    if algorithm == "FP8_PB_WO":
        scale = torch.rand(-(-rows // 128), 1, -(-columns // 128), 1) * 1e-3 + 1e-3
        wide = scale[:, :, :, 0].repeat_interleave(128, 0)[:rows, 0].repeat_interleave(128, 1)[:, :columns]
    elif algorithm == "FP8":
        scale = wide = weight.abs().max() / 448
    else:
        scale = weight.abs().amax(1) / 448
        wide = scale[:, None]
    values = (weight / wide).to(torch.float8_e4m3fn)
    static = {"input_scale": torch.tensor(0.02)} if algorithm == "FP8" else {}
    return {"weight": values, "weight_scale": scale, **static}, values.float() * wide


def int8(weight: Tensor) -> tuple[Tensors, Tensor]:
    scale = weight.abs().amax(1) / 127
    values = (weight / scale[:, None]).round().clamp(-128, 127).to(torch.int8)
    return {"weight": values, "weight_scale": scale}, values.float() * scale[:, None]


def int4(weight: Tensor) -> tuple[Tensors, Tensor]:
    scale = weight.reshape(len(weight), -1, GROUP).abs().amax(-1) / 7
    wide = scale.repeat_interleave(GROUP, 1)
    values = (weight / wide).round().clamp(-8, 7).to(torch.int8)
    packed = (values[0::2] & 15) | (values[1::2] << 4)
    return {"weight": packed.view(torch.uint8), "weight_scale": scale}, values.float() * wide


def four_bits(weight: Tensor, name: str) -> tuple[Tensors, Tensor]:
    parts = round_weight(weight, SCHEMES[name])
    numbers = dequantize(parts.values, parts.scale, None, parts.global_scale, name)
    second = {} if parts.global_scale is None else {"weight_scale_2": parts.global_scale}
    return {"weight": parts.values, "weight_scale": parts.scale, **second}, numbers


def write(algorithm: str) -> Encode:
    def plainly(weight: Tensor) -> tuple[Tensors, Tensor]:
        if algorithm.startswith("FP8"):
            return fp8(weight, algorithm)
        if algorithm.startswith("W8"):
            return int8(weight)
        if algorithm == "W4A16_AWQ":
            return int4(weight)
        return four_bits(weight, "mxfp4" if algorithm == "MXFP4" else "nvfp4")

    def one(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        if algorithm not in ("W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "NVFP4_AWQ"):
            return plainly(weight)
        if path.endswith(FOLDED):
            held, numbers = plainly(weight)
        else:
            factor = torch.rand(weight.shape[1]) + 0.5
            held, numbers = plainly(weight / factor)
            held, numbers = {**held, "pre_quant_scale": factor}, numbers * factor
        return {**held, "input_scale": torch.tensor(0.01)} if algorithm.startswith("W8A8") else held, numbers

    return one


@pytest.mark.parametrize("algorithm", EVERY)
def test_logits_are_those_of_the_plain_numbers(algorithm: str) -> None:
    graph = check(settings(algorithm), write(algorithm)).graph_module.graph
    inputs = calls_of(graph, ops.quantize.default)
    assert bool(inputs) == (algorithm in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "W8A8_SQ_PER_CHANNEL"))
    assert all((call.args[3] is None) == (algorithm == "FP8_PER_CHANNEL_PER_TOKEN") for call in inputs)


def test_layers_that_differ_and_scales_of_the_cache() -> None:
    """In the later form of the settings, one of the layers in 4 bits."""

    def one(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        held, numbers = write("W4A16_AWQ" if "layers.1" in path else "FP8")(path, weight)
        name = {"k_proj": "k_scale", "v_proj": "v_scale"}.get(path.rpartition(".")[2])
        return {**held, **({name: torch.tensor(0.5)} if name else {})}, numbers

    layers = {"model.layers.0": {"quant_algo": "FP8"}, "model.layers.1": {"quant_algo": "W4A16_AWQ"}}
    given = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    built = check(given, one)
    assert len(calls_of(built.graph_module.graph, ops.packed_linear.default, ops.packed_gated_linear.default)) > 0
    assert len(calls_of(built.graph_module.graph, ops.scaled_linear.default, ops.scaled_gated_linear.default)) > 0
    assert built.weights.unexpected == ()


def test_what_is_missing_or_unknown_is_named() -> None:
    stored, _ = encode(plain(), write("FP8"))
    missing = "model.layers.1.mlp.up_proj.weight_scale"
    del stored[missing]
    with pytest.raises(CheckpointError, match=f"lacks {missing}"):
        load(settings("FP8"), stored)
    with pytest.raises(UnsupportedError, match=r"quant_algo 'W4A8_AWQ' is not one that we read; did you mean 'W4A16"):
        load(settings("W4A8_AWQ"), stored)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("algorithm", "name"), [("FP8", "fp8"), ("W8A16", "int8_wo"), ("W4A16_AWQ", "int4_awq")])
def test_the_layout_is_modelopts(algorithm: str, name: str) -> None:
    library = pytest.importorskip("modelopt.torch.export.quant_utils")
    weight = plain()["model.layers.0.mlp.down_proj.weight"]
    held, _ = write(algorithm)("model.layers.0.mlp.up_proj", weight)
    found = library.to_quantized_weight(weight, held["weight_scale"], name, block_size=GROUP)
    assert torch.equal(found.view(torch.uint8), held["weight"].view(torch.uint8))
