"""Requests of random tokens, and the time that an engine takes to answer them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

from autodeploy.runtime.llm import LLM
from autodeploy.runtime.sampling_params import SamplingParams


def random_prompts(llm: LLM, num_requests: int, prompt_len: int, seed: int = 0) -> list[list[int]]:
    """Prompts of random tokens: other ones for another seed, or another length."""
    draw = Random(f"{seed}/{prompt_len}")
    tokens = range(llm.engine.core.vocab_size)
    return [draw.choices(tokens, k=prompt_len) for _ in range(num_requests)]


def greedy(num_new: int) -> SamplingParams:
    """Exactly so many tokens, without text."""
    return SamplingParams(max_tokens=num_new, temperature=0, ignore_eos=True, detokenize=False)


def answer_seconds(llm: LLM, prompts: Sequence[list[int]], num_new: int) -> float:
    """The time to answer all prompts with `num_new` tokens each."""
    params = greedy(num_new)
    started = time.perf_counter()
    llm.generate(list(prompts), params)
    return time.perf_counter() - started


def first_token_seconds(llm: LLM, prompts: Sequence[list[int]]) -> list[float]:
    """The time to the first token of each of some requests that arrive together, in the order they had it."""
    engine, params = llm.engine, greedy(1)
    started = time.perf_counter()
    for number, prompt in enumerate(prompts):
        engine.add_request(f"bench-{number}", prompt, params)
    times: list[float] = []
    while engine.has_unfinished:
        outputs = engine.step()
        times += [time.perf_counter() - started] * len(outputs)
    return times
