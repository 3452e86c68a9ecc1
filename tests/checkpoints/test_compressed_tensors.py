"""Checkpoints of compressed-tensors: that library writes a tiny one in each of its formats, and reads the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from torch import Tensor

from autodeploy.errors import CheckpointError, UnsupportedError
from autodeploy.graph.nodes import arguments, calls_of
from autodeploy.weights import MemorySource
from tests.checkpoints.checks import Encode, Tensors, check, config, counts, encode, load, logits, ops, plain
from tests.families import build, error

WORDS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True}
INPUTS = {"num_bits": 8, "symmetric": True}
TOKENS = {**INPUTS, "strategy": "token", "dynamic": True}
FLOAT = {"num_bits": 8, "type": "float", "symmetric": True}
BYTES = {"num_bits": 8, "type": "int", "symmetric": True}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "int4": ("pack-quantized", WORDS, None),
    "int4 with zeros": ("pack-quantized", {**WORDS, "symmetric": False}, None),
    "int4 by channel": ("pack-quantized", {**WORDS, "strategy": "channel", "group_size": None}, None),
    "int4, inputs too": ("pack-quantized", WORDS, {**TOKENS, "type": "int"}),
    "int8 in words": ("pack-quantized", {**WORDS, "num_bits": 8}, None),
    "int8 dynamic": ("int-quantized", {**BYTES, "strategy": "channel"}, {**TOKENS, "type": "int"}),
    "int8 static": ("int-quantized", {**BYTES, "strategy": "channel"}, {**INPUTS, "strategy": "tensor", "type": "int"}),
    "int8 weights": ("naive-quantized", {**BYTES, "strategy": "tensor"}, None),
    "fp8 dynamic": ("float-quantized", {**FLOAT, "strategy": "channel"}, {**TOKENS, "type": "float"}),
    "fp8 static": ("float-quantized", {**FLOAT, "strategy": "tensor"}, {**FLOAT, "strategy": "tensor"}),
    "fp8 blocks": (
        "float-quantized",
        {**FLOAT, "strategy": "block", "block_structure": [128, 128]},
        {**FLOAT, "strategy": "group", "group_size": 128, "dynamic": True},
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16},
        None,
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "group", "group_size": 32},
        None,
    ),
}
QUICK = ("int4 with zeros", "fp8 static", "nvfp4")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


def settings(case: str, **more: Any) -> dict[str, Any]:
    form, weights, inputs = CASES[case]
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": form}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        **more,
    }


def scales(weight: Tensor, arguments: QuantizationArgs) -> Tensors:
    """Scales that the largest of what they scale asks for; of fp4, powers of two, which bfloat16 holds exactly."""
    size = arguments.group_size
    strategy = str(arguments.strategy)
    rows, columns = weight.shape
    if "group" in strategy:
        grouped = weight.reshape(rows, -1, size or columns)
    elif strategy == "block":
        return {"weight_scale": torch.rand(-(-rows // 128), -(-columns // 128)) * 1e-3 + 1e-3}
    else:
        grouped = weight.reshape(1 if strategy == "tensor" else rows, 1, -1)
    if arguments.type == "float" and arguments.num_bits == 4:
        exponents = torch.exp2((grouped.abs().amax(-1) / 6).log2().ceil())
        divided = {"weight_global_scale": torch.tensor([64.0])} if strategy == "tensor_group" else {}
        return {"weight_scale": exponents * (64 if divided else 1), **divided}
    if arguments.symmetric:
        most = 448 if arguments.type == "float" else 2 ** (arguments.num_bits - 1) - 1
        found = grouped.abs().amax(-1) / most
        return {"weight_scale": found.reshape(-1) if strategy == "tensor" else found}
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    scale = (high - low) / 15
    return {"weight_scale": scale, "weight_zero_point": (-8 - low / scale).round().clamp(-8, 7).to(torch.int8)}


def write(case: str) -> Encode:
    form, weights, inputs = CASES[case]
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs, format=form)
    compressor = BaseCompressor.get_value_from_registry(form)

    def one(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        assert scheme.weights is not None
        held = compressor.compress({"weight": weight, **scales(weight, scheme.weights)}, scheme)
        numbers = compressor.decompress(dict(held), scheme)["weight"]
        if inputs is not None and not inputs.get("dynamic"):
            held = {**held, "input_scale": torch.tensor([0.02])}
        return held, numbers.float()

    return one


@pytest.mark.parametrize("case", EVERY)
def test_logits_are_those_of_the_librarys_numbers(case: str) -> None:
    form, _, inputs = CASES[case]
    graph = check(settings(case), write(case)).graph_module.graph
    scaled = calls_of(graph, ops.scaled_linear.default, ops.scaled_gated_linear.default)
    assert bool(scaled) == (inputs is not None and form != "pack-quantized")
    dynamic = [call for call in calls_of(graph, ops.quantize.default) if call.args[3] is None]
    assert bool(dynamic) == (bool(scaled) and bool(inputs and inputs.get("dynamic")))


def test_projections_of_one_input_are_joined() -> None:
    """q, k and v, and gate and up, become one each: of packed tensors, with equal scales of their inputs."""
    graph = check(settings("int4 with zeros"), write("int4 with zeros")).graph_module.graph
    assert len(calls_of(graph, ops.packed_linear.default, ops.packed_gated_linear.default)) == 2 * 4


def test_groups_and_ignored_ones_are_mixed() -> None:
    """Attention in int4 by an expression, an MLP in fp8 by class, and one projection left as it is by name."""
    left = "model.layers.1.mlp.down_proj"
    attention = settings("int4")["config_groups"]["group_0"] | {"targets": ["re:.*self_attn.*"]}
    mlp = settings("fp8 dynamic")["config_groups"]["group_0"]
    given = settings("int4", format="mixed-precision", ignore=["lm_head", left])
    given["config_groups"] = {"group_0": attention, "group_1": mlp}
    int4, fp8 = write("int4"), write("fp8 dynamic")

    def one(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        if path == left:
            return {"weight": weight}, weight
        return int4(path, weight) if "self_attn" in path else fp8(path, weight)

    graph = check(given, one, plain_ones=2).graph_module.graph
    assert len(calls_of(graph, ops.packed_linear.default)) == 4
    assert len(calls_of(graph, ops.scaled_linear.default, ops.scaled_gated_linear.default)) == 3


def test_a_last_group_that_is_shorter() -> None:
    """80 inputs in groups of 32 are five groups of 16, under the scales of the three."""

    def one(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        if weight.shape[1] % 32 == 0:
            return write("int4")(path, weight)
        rows, columns = weight.shape
        wide = torch.cat((weight, torch.zeros(rows, -columns % 32)), 1)
        held, numbers = write("int4")(path, wide)
        words = held["weight_packed"][:, : columns // 8].contiguous()
        return {**held, "weight_packed": words, "weight_shape": torch.tensor(weight.shape)}, numbers[:, :columns]

    graph = check(settings("int4"), one, intermediate_size=80).graph_module.graph
    scales = [arguments(call)["scale"] for call in calls_of(graph, ops.packed_linear.default)]
    assert {scale.meta["val"].shape[1] for scale in scales} == {2, 5}


def test_a_head_of_its_own_and_a_tied_one() -> None:
    one = write("int8 in words")

    def also_head(key: str) -> bool:
        return key.endswith("_proj.weight") or key == "lm_head.weight"

    stored, numbers = encode(plain(tie_word_embeddings=True), one, also_head)
    assert "lm_head.weight_packed" in stored
    built = load(settings("int8 in words"), stored, tie_word_embeddings=True)
    expected = build(config(None), MemorySource(numbers), prefer="torch")
    assert error(logits(built), logits(expected)) < 1e-5
    assert counts(built.graph_module.graph)[1] == 0


def broken(case: str, change: Callable[[Tensors], object]) -> None:
    stored, _ = encode(plain(), write(case))
    change(stored)
    load(settings(case), stored)


K_PROJ = "model.layers.0.self_attn.k_proj"


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        ("int4", lambda held: held.pop(f"{K_PROJ}.weight_scale"), rf"lacks {K_PROJ}.weight_scale"),
        ("int4 with zeros", lambda held: held.pop(f"{K_PROJ}.weight_zero_point"), rf"lacks {K_PROJ}.weight_zero_point"),
        ("nvfp4", lambda held: held.pop(f"{K_PROJ}.weight_global_scale"), rf"lacks {K_PROJ}.weight_global_scale"),
        ("fp8 static", lambda held: held.pop(f"{K_PROJ}.input_scale"), rf"lacks {K_PROJ}.input_scale"),
        (
            "int4",
            lambda held: held.update({f"{K_PROJ}.weight_scale": torch.ones(32, 3)}),
            r"k_proj.weight_scale in the checkpoint: \[32, 3\] are no numbers for groups of 32 among 64 inputs",
        ),
        (
            "fp8 dynamic",
            lambda held: held.update({f"{K_PROJ}.weight_scale": torch.ones(7)}),
            r"k_proj.weight_scale in the checkpoint: \[7\] are no scales of 32 by 64 weights",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(case: str, change: Callable[[Tensors], object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        broken(case, change)


def test_what_we_cannot_compute_is_named() -> None:
    given = settings("int4")
    given["config_groups"]["group_0"]["weights"] = {**WORDS, "num_bits": 3}
    stored, _ = encode(plain(), write("int4"))
    with pytest.raises(UnsupportedError, match=r"proj.weight_packed in the checkpoint: 3 bits \(int\) in groups of 32"):
        load(given, stored)
    with pytest.raises(UnsupportedError, match="format 'marlin-24' is not one that we read"):
        load(settings("int4", format="marlin-24"), stored)
    with pytest.raises(UnsupportedError, match=r"quant_method 'bitsandbytes' is not .* compressed-tensors"):
        load({"quant_method": "bitsandbytes"}, stored)
    with pytest.raises(CheckpointError, match=r"quantization_config in config\.json: config_groups\.group_0\.targets"):
        load(settings("int4", config_groups={"group_0": {}}), stored)
