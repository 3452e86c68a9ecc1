"""Timing an engine under one load."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, quantiles

import torch

from autodeploy.errors import InputError
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.sampling_params import SamplingParams

SHARED_PAGES = 2
"""Pages that a request may need beyond its tokens: the last one of each length is not full."""


@dataclass(frozen=True)
class Load:
    """Requests that arrive together: how many, the tokens of each prompt, and the tokens each is answered with."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int

    def num_pages(self, page_size: int) -> int:
        """Pages that hold the whole load."""
        tokens = self.prompt_tokens + self.new_tokens
        return self.batch_size * (-(-tokens // page_size) + SHARED_PAGES)


@dataclass(frozen=True)
class Timing:
    """Seconds until every request has its first token, and of a step in which all of them decode (the median)."""

    prefill: float
    step: float


def time_load(engine: Engine, load: Load, seed: int = 0) -> Timing:
    """Serve `load` once, on random prompts drawn from `seed`.

    Raises RequestError when the model cannot take such requests, and InputError when they answer so few tokens that
    the first has ended before the last begins.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(engine.core.vocab_size, (load.batch_size, load.prompt_tokens), generator=generator).tolist()
    params = SamplingParams(max_tokens=load.new_tokens, temperature=0, ignore_eos=True, detokenize=False)
    for index, prompt in enumerate(prompts):
        engine.add_request(f"bench-{index}", prompt, params)
    started, waiting = time.perf_counter(), {f"bench-{index}" for index in range(load.batch_size)}
    times: list[tuple[float, bool]] = []  # when each step ended that gave tokens, and whether it gave one to everybody
    prefilled = started
    while engine.has_unfinished:
        outputs = engine.step()
        now = time.perf_counter()
        if waiting:
            waiting -= {output.request_id for output in outputs}
            prefilled = now
        if outputs:
            times.append((now, len(outputs) == load.batch_size))
    steps = [after - before for (before, _), (after, full) in pairwise(times) if full and before >= prefilled]
    if not steps:
        raise InputError(f"--new-tokens {load.new_tokens}: the first answer ends before all have begun; ask for more")
    return Timing(prefilled - started, median(steps))


def spread(figures: Sequence[float]) -> tuple[float, float]:
    """The quartiles of some figures: half of them lie between."""
    if len(figures) < 2:
        return figures[0], figures[0]
    low, _, high = quantiles(figures, n=4, method="inclusive")
    return low, high
