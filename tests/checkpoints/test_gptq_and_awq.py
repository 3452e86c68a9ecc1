"""Checkpoints of GPTQ and AWQ, encoded here by their published layouts.

GPTQ's is that of AutoGPTQ's `QuantLinear.pack` (qweight along inputs, qzeros along outputs and less 1); AWQ's that of
AutoAWQ's `WQLinear_GEMM.from_linear` (both along outputs, in the order 0, 2, 4, 6, 1, 3, 5, 7).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.errors import CheckpointError, UnsupportedError
from autodeploy.graph.nodes import calls_of
from tests.checkpoints.checks import Encode, Tensors, check, encode, load, ops, plain

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
K_PROJ = "model.layers.0.self_attn.k_proj"


def words(codes: Tensor, bits: int, dim: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Codes as int32 words, in a plain loop."""
    each = 32 // bits
    codes = codes.movedim(dim, 0).to(torch.int64)
    packed = torch.zeros(len(codes) // each, *codes.shape[1:], dtype=torch.int64)
    for index in range(each):
        packed |= codes[(order or range(each))[index] :: each] << (bits * index)
    signed = torch.where(packed >= 2**31, packed - 2**32, packed)
    return signed.to(torch.int32).movedim(0, dim).contiguous()


def rounded(weight: Tensor, groups: Tensor, bits: int, *, symmetric: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes `[N, K]`, scales and zeros `[N, G]`, and the numbers, for the group of each input `[K]`."""
    count, most = int(groups.max()) + 1, 2**bits - 1
    members = [weight[:, groups == group] for group in range(count)]
    low = torch.stack([one.amin(1).clamp(max=0) for one in members], 1)
    high = torch.stack([one.amax(1).clamp(min=0) for one in members], 1)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scales = ((high - low) / most).half().float()
    zeros = torch.full_like(scales, 2 ** (bits - 1)) if symmetric else (-low / scales).round().clamp(1, most)
    wide, middle = scales[:, groups], zeros[:, groups]
    codes = (weight / wide + middle).round().clamp(0, most)
    return codes, scales, zeros, (codes - middle) * wide


def gptq(
    *, bits: int = 4, symmetric: bool = True, act_order: bool = False, second: bool = False, group: int = GROUP
) -> Encode:
    def one(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        columns = weight.shape[1]
        size = group if group > 0 else columns
        groups = torch.arange(columns) // size
        if act_order:  # of one input, all projections have the same
            groups = groups[torch.randperm(columns, generator=torch.Generator().manual_seed(columns))]
        codes, scales, zeros, numbers = rounded(weight, groups, bits, symmetric=symmetric)
        held = {
            "qweight": words(codes.T, bits, 0),
            "qzeros": words(zeros.T - (0 if second else 1), bits, 1),
            "scales": scales.T.half().contiguous(),
            "g_idx": groups.to(torch.int32),
        }
        return held, numbers

    return one


def gptq_settings(
    *, bits: int = 4, symmetric: bool = True, act_order: bool = False, second: bool = False, **more: Any
) -> dict[str, Any]:
    given = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "sym": symmetric, "desc_act": act_order}
    return {**given, "checkpoint_format": "gptq_v2" if second else "gptq", **more}


GPTQ: dict[str, dict[str, Any]] = {
    "symmetric": {},
    "zero points": {"symmetric": False},
    "zero points, v2": {"symmetric": False, "second": True},
    "act-order": {"act_order": True},
    "act-order with zero points": {"act_order": True, "symmetric": False},
    "8 bits": {"bits": 8},
    "8 bits, act-order": {"bits": 8, "act_order": True},
}
QUICK = ("zero points", "act-order")
EVERY = [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in GPTQ]


@pytest.mark.parametrize("case", EVERY)
def test_gptq(case: str) -> None:
    options = GPTQ[case]
    graph = check(gptq_settings(**options), gptq(**options)).graph_module.graph
    assert len(calls_of(graph, ops.packed_linear.default, ops.packed_gated_linear.default)) == 2 * 4
    selected = [str(call.args[2]) for call in calls_of(graph, torch.ops.aten.index_select.default)]
    reordered = [order for order in selected if order != "logit_rows"]
    assert len(reordered) == (2 * 4 if options.get("act_order") else 0)


@pytest.mark.slow
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq_with_a_last_group_that_is_shorter(act_order: bool) -> None:
    options = {"act_order": act_order, "symmetric": False}
    check(gptq_settings(**options), gptq(**options), intermediate_size=80)


@pytest.mark.slow
def test_gptq_without_groups() -> None:
    check(gptq_settings(group_size=-1), gptq(group=-1))


def awq(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    groups = torch.arange(weight.shape[1]) // GROUP
    codes, scales, zeros, numbers = rounded(weight, groups, 4, symmetric=False)
    held = {
        "qweight": words(codes.T, 4, 1, AWQ_ORDER),
        "qzeros": words(zeros.T, 4, 1, AWQ_ORDER),
        "scales": scales.T.half().contiguous(),
    }
    return held, numbers


def awq_settings(**more: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm", **more}


def test_awq() -> None:
    graph = check(awq_settings(), awq).graph_module.graph
    assert len(calls_of(graph, ops.packed_linear.default, ops.packed_gated_linear.default)) == 2 * 4


def test_experts_are_read_as_numbers() -> None:
    """A mixture's experts, for which this device has no kernel, beside attention that stays packed."""
    options = {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": False}

    def which(key: str) -> bool:
        return key.endswith(("_proj.weight", "w1.weight", "w2.weight", "w3.weight"))

    check(awq_settings(), awq, family="mixtral", which=which, plain_ones=3, **options)  # two routers and the head


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (gptq_settings(bits=3), r"quantization_config in config\.json: 3 bits: we read 4, and 8"),
        (gptq_settings(bits=8, symmetric=False), r"8 bits with zero points"),
        (gptq_settings(checkpoint_format="marlin"), r"checkpoint_format 'marlin': we read gptq and gptq_v2"),
        (awq_settings(bits=8), r"8 bits: we read 4"),
        (awq_settings(version="gemv"), r"version 'gemv': we read the layout gemm"),
    ],
)
def test_settings_that_we_do_not_read(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        load(given, plain())


def test_tensors_that_cannot_be_are_named() -> None:
    stored, _ = encode(plain(), gptq(act_order=True))
    wrong = {**stored, f"{K_PROJ}.g_idx": torch.zeros(64, dtype=torch.int32)}
    with pytest.raises(CheckpointError, match=rf"{K_PROJ}\.g_idx in the checkpoint: its groups are not of 32 inputs"):
        load(gptq_settings(act_order=True), wrong)
    wrong = {**stored, f"{K_PROJ}.scales": torch.ones(3, 32)}
    with pytest.raises(CheckpointError, match=rf"{K_PROJ}\.scales .*no numbers for groups of 32 among 64 inputs"):
        load(gptq_settings(act_order=True), wrong)
    del stored[f"{K_PROJ}.scales"]
    with pytest.raises(CheckpointError, match=rf"lacks {K_PROJ}\.scales"):
        load(gptq_settings(act_order=True), stored)
