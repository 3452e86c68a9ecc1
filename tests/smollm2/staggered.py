"""Requests that arrive while others run."""

from __future__ import annotations

from collections.abc import Sequence

from autodeploy.runtime.engine import Engine
from autodeploy.runtime.sampling_params import SamplingParams
from tests.runtime.fakes import scheduler_of


def staggered(engine: Engine, prompts: Sequence[str], params: SamplingParams) -> dict[str, list[int]]:
    """The tokens of each prompt by its number, two of them added a step; the scheduler is checked after each."""
    found: dict[str, list[int]] = {f"{i}": [] for i in range(len(prompts))}
    waiting = list(enumerate(prompts))
    while waiting or engine.has_unfinished:
        for i, prompt in waiting[:2]:
            engine.add_request(f"{i}", prompt, params)
        del waiting[:2]
        for output in engine.step():
            found[output.request_id] += output.outputs[0].token_ids
        scheduler_of(engine).check_integrity()
    return found
