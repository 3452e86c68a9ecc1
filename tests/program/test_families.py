"""Every family against transformers: prefill, then one token after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from autodeploy.testing.families import (
    FAMILIES,
    HAND_WRITTEN_FAMILIES,
    OTHER_FAMILIES,
    VOCAB_SIZE,
    tiny_model,
)
from autodeploy.weights import MemorySource
from tests.families import UNTUNED, VARIANTS, build, config_of, error, replay

QUICK = ("llama", "gemma3_text", "gpt2", "gpt_neox", "cohere", "opt")
PROMPT = 12


def check(config: PretrainedConfig, num_decode_steps: int, device: str = "cpu", **values: Any) -> None:
    token_ids = torch.randint(3, VOCAB_SIZE, (PROMPT + num_decode_steps,), generator=torch.manual_seed(1)).tolist()
    model = tiny_model(config)
    with torch.no_grad():
        wanted = model(torch.tensor([token_ids])).logits[0]
    program = build(config, MemorySource(dict(model.state_dict())), device=device, values=values).program
    got = replay(program, token_ids, [PROMPT, *[1] * num_decode_steps]).cpu()
    assert error(got, wanted) <= 1e-5


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_logits_of_a_listed_family(family: str) -> None:
    check(config_of(family), num_decode_steps=32)


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_logits_of_another_family(family: str) -> None:
    check(config_of(family, OTHER_FAMILIES[family]), num_decode_steps=32)


@pytest.mark.parametrize("family", HAND_WRITTEN_FAMILIES)
def test_logits_of_a_family_that_writes_its_attention(family: str) -> None:
    check(config_of(family), num_decode_steps=32)


QUICK_VARIANTS = (
    "rotary yarn",
    "heads wider than the model",
    "soft caps that bite",
    "norms without weights",
    "ALiBi that is scaled",
    "keys of each group beside its queries",
)


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in QUICK_VARIANTS else pytest.mark.slow) for name in VARIANTS]
)
def test_logits_of_a_variant(variant: str) -> None:
    check(config_of(*VARIANTS[variant]), num_decode_steps=12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("family", [*FAMILIES, "mixtral", "gpt_oss"])
def test_logits_of_a_family_on_cuda(family: str) -> None:
    check(config_of(family, {**FAMILIES, **OTHER_FAMILIES}[family]), num_decode_steps=8, device="cuda", **UNTUNED)
