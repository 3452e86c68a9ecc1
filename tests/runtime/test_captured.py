"""Steps that are captured, by a stand-in for CUDA graphs, say what plain steps say."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from autodeploy.program import Program
from autodeploy.runtime.core import EngineCore
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.graphs import Computed, captured_buckets
from autodeploy.runtime.runner import Runner
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.testing.families import VOCAB_SIZE, tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import build

PAGES = 64


@pytest.fixture(scope="module")
def program() -> Program:
    config = tiny_config("llama")
    return build(config, MemorySource(dict(tiny_model(config).state_dict()))).program


class Replays:
    """Does a step again into the memory of its first result, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, act: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        kept = act()

        def replay() -> None:
            self.count += 1
            again = act()
            kept.logits.copy_(again.logits)
            kept.token_ids.copy_(again.token_ids)

        return replay, kept


def answers(program: Program, *, overlap: bool, capture: Replays | None) -> dict[str, list[int]]:
    """The tokens of requests of all kinds, some of which arrive while others run."""
    settings = RuntimeSettings(max_num_tokens=48, max_batch_size=6, num_pages=PAGES, page_size=8, overlap=overlap)
    core = EngineCore(program, settings)
    if capture is not None:
        core._runner = Runner(program, PAGES, 8, 6, core.max_len, captured_buckets(48, 6), capture)
    engine, random, tokens = Engine(core, None), Random(0), dict[str, list[int]]()
    for number in range(24):
        prompt = [random.randrange(3, VOCAB_SIZE) for _ in range(random.randrange(1, 60))]
        params = SamplingParams(
            temperature=random.choice((0.0, 0.0, 1.0)),
            prompt_logprobs=random.choice((None, None, 1)),
            max_tokens=random.randrange(1, 20),
            seed=number,
        )
        engine.add_request(str(number), prompt, params, stream=False)
        for output in engine.step() if number % 3 else []:
            tokens[output.request_id] = output.outputs[0].token_ids
    while engine.has_unfinished:
        for output in engine.step():
            tokens[output.request_id] = output.outputs[0].token_ids
        core.scheduler.check_integrity()
    return tokens


@pytest.mark.parametrize("overlap", [False, True])
def test_captured_steps_say_what_plain_steps_say(program: Program, overlap: bool) -> None:
    capture = Replays()
    plain = answers(program, overlap=False, capture=None)
    assert len(plain) == 24
    assert answers(program, overlap=overlap, capture=capture) == plain
    assert capture.count > 20
