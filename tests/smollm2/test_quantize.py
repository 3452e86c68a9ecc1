"""A real model's quantized checkpoint, read back by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

import autodeploy as ad
from autodeploy.quantization import SCHEMES, dequantize, round_weight
from tests.smollm2.prompts import PROMPTS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8", "int4_g32"])
def test_transformers_reads_the_numbers_of_our_rounding(
    folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, name: str
) -> None:
    factory: Any = AutoModelForCausalLM
    written = ad.quantize(str(folder), quantize=name, out=tmp_path / "out")
    assert written.schemes == {name: 30 * 7}
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    scheme = SCHEMES[name]
    plain = factory.from_pretrained(folder, dtype=torch.bfloat16)
    for path, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear) and path != "lm_head":
            parts = round_weight(module.weight.data, scheme)
            wide = dequantize(parts.values, parts.scale, parts.zero, parts.global_scale, scheme.weights)
            module.weight.data = wide
    with torch.no_grad():
        wanted = plain.float()(ids).logits
        found = factory.from_pretrained(written.path, dtype=torch.float32)(ids).logits
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()
