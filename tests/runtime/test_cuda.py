"""The engine on a GPU: graphs and overlapping steps change nothing that is said."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch

from autodeploy.program import Program
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.testing.families import VOCAB_SIZE, tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import UNTUNED, build
from tests.runtime.fakes import scheduler_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture(scope="module")
def program() -> Program:
    config = tiny_config("llama")
    source = MemorySource(dict(tiny_model(config).state_dict()))
    return build(config, source, device="cuda", values=UNTUNED).program


def answers(program: Program, num_requests: int, **settings: Any) -> dict[str, list[int]]:
    """The tokens of requests that arrive one after the other, some greedy and some drawn."""
    engine = Engine.of(program, None, RuntimeSettings(max_num_tokens=64, num_pages=64, page_size=8, **settings), [7])
    rng = Random(0)
    tokens: dict[str, list[int]] = {}
    for number in range(num_requests):
        prompt = [rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randrange(1, 30))]
        params = SamplingParams(
            temperature=rng.choice((0.0, 1.0)), top_k=rng.choice((0, 5)), seed=number, max_tokens=rng.randrange(1, 20)
        )
        engine.add_request(str(number), prompt, params)
        outputs = engine.step() if number % 2 else []
        for output in outputs:
            tokens.setdefault(output.request_id, []).extend(output.outputs[0].token_ids)
    while engine.has_unfinished:
        for output in engine.step():
            tokens.setdefault(output.request_id, []).extend(output.outputs[0].token_ids)
        scheduler_of(engine).check_integrity()
    assert engine.stats().num_free_pages == 64
    return tokens


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_graphs_and_overlap_say_what_plain_steps_say(program: Program, batch: int) -> None:
    plain = answers(program, 24, max_batch_size=batch, overlap=False, cuda_graphs=False)
    assert len(plain) == 24
    assert answers(program, 24, max_batch_size=batch, overlap=True, cuda_graphs=False) == plain
    assert answers(program, 24, max_batch_size=batch) == plain
