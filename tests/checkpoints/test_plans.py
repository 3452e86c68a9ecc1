"""What a plan takes a quantized checkpoint for, without its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autodeploy.checkpoints import form_of
from autodeploy.hardware import choose_gpu
from autodeploy.planning.estimate import estimate_model
from autodeploy.quantization import name_of
from tests.checkpoints import test_compressed_tensors as compressed
from tests.checkpoints import test_gptq_and_awq as gptq
from tests.checkpoints import test_modelopt as modelopt
from tests.checkpoints.checks import config
from tests.checkpoints.test_fp8_and_mxfp4 import gpt_oss
from tests.families import default_recipe

FORMS: dict[str, tuple[dict[str, Any], str, str]] = {
    "gptq": (
        gptq.gptq_settings(symmetric=False, act_order=True),
        "4 bits, groups of 32, act-order, zero points",
        "int4_zeros_g32",
    ),
    "gptq of 8 bits": (gptq.gptq_settings(bits=8, group_size=-1), "8 bits, one group a row", "int8"),
    "awq": (gptq.awq_settings(), "4 bits, groups of 32, zero points", "int4_zeros_g32"),
    "modelopt": (modelopt.settings("nvfp4_awq"), "NVFP4_AWQ", "nvfp4"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "8 bits in blocks of 128 by 128", "fp8_block"),
    "int4": (compressed.settings("int4"), "pack-quantized, 4 bits (int) in groups of 32", "int4_g32"),
    "int8": (compressed.settings("int8 dynamic"), "int-quantized, 8 bits (int)", "int8_dynamic"),
    "fp8 dynamic": (compressed.settings("fp8 dynamic"), "float-quantized, 8 bits (float)", "fp8"),
    "mxfp4": (compressed.settings("mxfp4"), "mxfp4-pack-quantized, 4 bits (float) in groups of 32", "mxfp4"),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_the_settings_say(name: str) -> None:
    settings, words, scheme = FORMS[name]
    form = form_of(config(settings))
    assert form is not None
    assert form.describe() == words
    assert form.scheme is not None
    assert name_of(form.scheme) == scheme


def test_an_estimate_counts_the_packed_bytes() -> None:
    def layers(settings: dict[str, Any] | None) -> float:
        found = config(settings)
        estimate = estimate_model(found, choose_gpu("cpu").gpu, torch.bfloat16, default_recipe(found))
        return estimate.weight_bytes

    assert layers(gptq.gptq_settings()) < 0.6 * layers(None)  # of a tiny model, embeddings are much


@pytest.mark.parametrize(("gpu", "share"), [("h200", 0.28), ("cpu", 1.0)])
def test_an_estimate_counts_packed_experts_where_a_kernel_reads_them(gpu: str, share: float) -> None:
    pytest.importorskip("triton")

    def weights(settings: dict[str, Any] | None) -> float:
        found = gpt_oss(settings)
        recipe = default_recipe(found, **{"passes.pack_experts": True})
        return estimate_model(found, choose_gpu(gpu).gpu, torch.bfloat16, recipe).expert_bytes()

    assert weights({"quant_method": "mxfp4"}) == pytest.approx(share * weights(None), rel=0.05)
