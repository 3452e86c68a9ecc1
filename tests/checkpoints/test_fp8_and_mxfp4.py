"""Checkpoints in fp8, as DeepSeek's, and gpt-oss' experts in MXFP4."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.errors import CheckpointError, UnsupportedError
from autodeploy.graph.nodes import calls_of
from autodeploy.quantization import SCHEMES, dequantize, round_weight
from autodeploy.testing.families import tiny_model
from autodeploy.weights import MemorySource
from tests.checkpoints.checks import Encode, Tensors, check, encode, load, logits, ops, plain
from tests.families import build, config_of, error

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 320}
BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def blocks(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    parts = round_weight(weight, SCHEMES["fp8_block"])
    numbers = dequantize(parts.values, parts.scale, None, None, "fp8")
    return {"weight": parts.values, "weight_scale_inv": parts.scale}, numbers


def single(*, static: bool) -> Encode:
    def one(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        scale = weight.abs().max() / 448
        values = (weight / scale).to(torch.float8_e4m3fn)
        inputs = {"input_scale": torch.tensor(0.02)} if static else {}
        return {"weight": values, "weight_scale": scale, **inputs}, values.float() * scale

    return one


def test_blocks() -> None:
    """Of 64 or 320 inputs, which are no multiple of 128, the last block is smaller, and they stay as they are."""
    graph = check(BLOCKS, blocks, **WIDE).graph_module.graph
    assert {call.args[2] for call in calls_of(graph, ops.quantize.default)} == {128}
    assert len(calls_of(graph, ops.packed_linear.default)) == 2 * 2


@pytest.mark.parametrize("static", [pytest.param(False, marks=pytest.mark.slow), True])
def test_one_scale_a_weight(static: bool) -> None:
    given = {"quant_method": "fp8", "activation_scheme": "static" if static else "dynamic"}
    graph = check(given, single(static=static)).graph_module.graph
    assert all((call.args[3] is not None) == static for call in calls_of(graph, ops.quantize.default))


def test_what_is_wrong_is_named() -> None:
    stored, _ = encode(plain(**WIDE), blocks)
    scale = "model.layers.0.mlp.up_proj.weight_scale_inv"
    with pytest.raises(CheckpointError, match=rf"{scale} in the checkpoint: \[1, 2\] are no scales of 320 by 256"):
        load(BLOCKS, {**stored, scale: torch.ones(1, 2)}, **WIDE)
    del stored[scale]
    with pytest.raises(CheckpointError, match=f"lacks {scale}"):
        load(BLOCKS, stored, **WIDE)
    with pytest.raises(UnsupportedError, match=r"weight_block_size \[64, 64\]: we read blocks of 128 by 128"):
        load({**BLOCKS, "weight_block_size": [64, 64]}, stored, **WIDE)


def experts() -> tuple[Tensors, Tensors]:
    """gpt-oss' weights with the experts in MXFP4, and as plain numbers."""
    numbers: Tensors = dict(tiny_model(gpt_oss()).state_dict())
    stored: Tensors = {}
    for key, weight in list(numbers.items()):
        if not key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[key] = weight
            continue
        count, columns, rows = weight.shape
        flat = weight.transpose(1, 2).reshape(-1, columns)
        parts = round_weight(flat, SCHEMES["mxfp4"])
        stored[f"{key}_blocks"] = parts.values.reshape(count, rows, columns // 32, 16)
        stored[f"{key}_scales"] = parts.scale.reshape(count, rows, columns // 32)
        wide = dequantize(parts.values, parts.scale, None, None, "mxfp4")
        numbers[key] = wide.reshape(count, rows, columns).transpose(1, 2).contiguous()
    return stored, numbers


def gpt_oss(quantization: dict[str, Any] | None = None) -> Any:
    found = config_of("gpt_oss")
    found.hidden_size, found.intermediate_size = 64, 32
    if quantization is not None:
        found.quantization_config = quantization
    return found


def test_gpt_oss() -> None:
    stored, numbers = experts()
    assert any(key.endswith("_blocks") for key in stored)
    built = build(gpt_oss({"quant_method": "mxfp4"}), MemorySource(stored), prefer="torch")
    expected = build(gpt_oss(), MemorySource(numbers), prefer="torch")
    assert error(logits(built), logits(expected)) < 1e-5
    missing = next(key for key in stored if key.endswith("down_proj_scales"))
    del stored[missing]
    with pytest.raises(CheckpointError, match=f"lacks {missing}"):
        build(
            gpt_oss({"quant_method": "mxfp4"}),
            MemorySource({key: one for key, one in stored.items() if key != missing}),
        )
