"""Experts that a checkpoint stores in 8 or 4 bits, on a device that has a kernel for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from autodeploy import ops as canonical
from autodeploy.graph.nodes import calls_of
from autodeploy.kernels.table import Kernel, KernelTable
from autodeploy.testing.families import tiny_model
from autodeploy.weights import MemorySource
from tests import families
from tests.checkpoints.checks import Encode, Tensors, config, encode, logits, ops
from tests.checkpoints.test_fp8_and_mxfp4 import experts, gpt_oss
from tests.checkpoints.test_gptq_and_awq import awq, awq_settings, gptq, gptq_settings
from tests.families import Built, build, error

PACKED = {"passes.pack_experts": True}
MIXTURE: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": False}


@pytest.fixture(autouse=True)
def a_kernel_for_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference, as a kernel of the CPU."""
    op = canonical.packed_expert_linear
    table: Any = families.kernel_table
    decoding = Kernel(op, "decoding", op.reference, dtypes=(torch.float32,), waits=True)

    def with_one(device: str = "cpu") -> KernelTable:
        return KernelTable([*table(device), decoding])

    monkeypatch.setattr(families, "kernel_table", with_one)


def counts(built: Built) -> tuple[int, int]:
    """Projections of experts that are packed, and that are not."""
    graph = built.graph_module.graph
    return len(calls_of(graph, ops.packed_expert_linear.default)), len(calls_of(graph, ops.expert_linear.default))


def test_gpt_oss_keeps_its_four_bits() -> None:
    stored, numbers = experts()
    built = build(gpt_oss({"quant_method": "mxfp4"}), MemorySource(stored), prefer="torch", values=PACKED)
    expected = build(gpt_oss(), MemorySource(numbers), prefer="torch")
    assert counts(built) == (4, 0)
    assert error(logits(built), logits(expected)) < 1e-5
    held = {name: tensor for name, tensor in built.tensors.items() if "experts" in name and "bias" not in name}
    assert {tensor.dtype for tensor in held.values()} == {torch.uint8}
    assert sum(tensor.nbytes for tensor in held.values()) * 7 < 4 * sum(
        one.numel() for key, one in numbers.items() if key.endswith(("gate_up_proj", "down_proj"))
    )


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """The weights of a mixture under the names of its checkpoints, where each expert has tensors of its own."""
    folder = tmp_path_factory.mktemp("mixture")
    tiny_model(config(None, "mixtral", **MIXTURE)).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def is_of_an_expert(key: str) -> bool:
    return key.endswith(("_proj.weight", "w1.weight", "w2.weight", "w3.weight"))


def fp8(path: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    scale = weight.abs().max() / 448
    values = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": values, "weight_scale": scale, "input_scale": torch.tensor(0.02)}, values.float() * scale


CASES: dict[str, tuple[dict[str, Any], Encode]] = {
    "gptq": (gptq_settings(), gptq()),
    "awq with zeros": (awq_settings(), awq),
    "fp8, one scale an expert": ({"quant_method": "fp8", "activation_scheme": "static"}, fp8),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mixture_whose_experts_are_stored_one_by_one(mixture: Tensors, case: str) -> None:
    settings, one = CASES[case]
    stored, numbers = encode(mixture, one, which=is_of_an_expert)
    assert sum("experts" in key for key in stored) > sum("experts" in key for key in mixture)
    built = build(config(settings, "mixtral", **MIXTURE), MemorySource(stored), prefer="torch", values=PACKED)
    expected = build(config(None, "mixtral", **MIXTURE), MemorySource(numbers), prefer="torch")
    assert counts(built) == (4, 0)
    assert error(logits(built, rounding=False), logits(expected)) < 1e-5


def test_act_order_selects_inputs_which_experts_do_not_share(mixture: Tensors) -> None:
    stored, numbers = encode(mixture, gptq(act_order=True), which=is_of_an_expert)
    settings = config(gptq_settings(act_order=True), "mixtral", **MIXTURE)
    built = build(settings, MemorySource(stored), prefer="torch", values=PACKED)
    expected = build(config(None, "mixtral", **MIXTURE), MemorySource(numbers), prefer="torch")
    assert counts(built) == (0, 4)
    assert error(logits(built), logits(expected)) < 1e-5
