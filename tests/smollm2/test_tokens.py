"""Tokens of a real model against transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

import autodeploy as ad
from autodeploy.runtime.outputs import RequestOutput
from tests.smollm2.prompts import PROMPTS
from tests.smollm2.reference import answers, divergence
from tests.smollm2.staggered import staggered

GREEDY_64 = ad.SamplingParams(max_tokens=64, temperature=0)


def tokens_of(outputs: list[RequestOutput]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_a_few_prompts_in_fp32_give_the_tokens_of_transformers(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompts = PROMPTS[:2]
    llm = ad.LLM(str(folder), gpu="cpu", dtype="fp32", set={"runtime.max_batch_size": 4})
    ours = tokens_of(llm.generate(list(prompts), ad.SamplingParams(max_tokens=8, temperature=0)))
    assert ours == [answer.token_ids for answer in answers(folder, tokenizer, prompts, 8)]


@pytest.mark.slow
def test_forty_prompts_in_fp32_give_the_tokens_of_transformers(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    llm = ad.LLM(str(folder), gpu="cpu", dtype="fp32", set={"runtime.max_batch_size": 8})
    ours = tokens_of(llm.generate(list(PROMPTS), GREEDY_64))
    assert ours == [answer.token_ids for answer in answers(folder, tokenizer, PROMPTS, 64)]


@pytest.mark.slow
def test_forty_prompts_in_bf16_part_from_transformers_no_sooner_than_its_own_attentions_do(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    llm = ad.LLM(str(folder), gpu="cpu", dtype="bf16", set={"runtime.max_batch_size": 8})
    outputs = llm.generate(list(PROMPTS), ad.SamplingParams(max_tokens=64, temperature=0, logprobs=5))
    sdpa = answers(folder, tokenizer, PROMPTS, 64, torch.bfloat16, "sdpa")
    eager = answers(folder, tokenizer, PROMPTS, 64, torch.bfloat16, "eager")
    places = []
    for output, theirs in zip(outputs, sdpa, strict=True):
        ours = output.outputs[0]
        at = divergence(list(ours.token_ids), theirs.token_ids)
        places.append(64 if at is None else at)
        if at is not None and at < min(len(ours.token_ids), len(theirs.token_ids)):
            assert ours.logprobs is not None
            assert ours.token_ids[at] in theirs.top5[at]
            assert theirs.token_ids[at] in ours.logprobs[at]
    own = [divergence(left.token_ids, right.token_ids) for left, right in zip(sdpa, eager, strict=True)]
    mean_of_theirs = sum(64 if at is None else at for at in own) / len(own)
    print(f"mean position of divergence: ours {sum(places) / len(places):.1f}, transformers' own {mean_of_theirs:.1f}")
    assert sum(places) / len(places) >= 0.9 * mean_of_theirs


@pytest.mark.slow
def test_staggered_chunked_and_preempted_requests_give_the_tokens_of_each_alone(folder: Path) -> None:
    alone = ad.LLM(str(folder), gpu="cpu", dtype="fp32", set={"runtime.max_batch_size": 1})
    wanted = {f"{i}": tokens_of(alone.generate(prompt, GREEDY_64))[0] for i, prompt in enumerate(PROMPTS)}
    settings = {"runtime.page_size": 8, "runtime.max_num_tokens": 16, "runtime.num_pages": 40}
    engine = ad.LLM(str(folder), gpu="cpu", dtype="fp32", set=settings).engine
    assert staggered(engine, PROMPTS, GREEDY_64) == wanted
    assert engine.stats().num_preemptions > 0
