"""Random arrivals, cancellations and sizes: every request ends with the tokens it would have had alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from unittest import TestCase

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from autodeploy.runtime.engine import Engine
from autodeploy.runtime.outputs import RequestOutput
from autodeploy.runtime.request import Request
from autodeploy.runtime.sampler import Sampler
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from tests.runtime.fakes import FakeModel, history_logits, scheduler_of

VOCAB_SIZE = 16
EOS = frozenset({7})
PREFIXES = ((1, 2, 3, 4, 5, 6, 8, 9), (1, 2, 3, 4, 9, 9, 9, 9), (5,) * 8)


@cache
def alone(prompt: tuple[int, ...], params_json: str, max_len: int, index: int) -> tuple[tuple[int, ...], str]:
    """Tokens and finish reason of a request, generated without a cache, a batch or an engine."""
    params = SamplingParams.model_validate_json(params_json)
    seed = params.seed or 0
    request = Request("alone", prompt, params, max_len=max_len, seed=seed, index=index, eos_token_ids=EOS)
    sampler = Sampler(VOCAB_SIZE, 1, torch.device("cpu"))
    while True:
        token_id = int(sampler.sample(history_logits(request.token_ids, VOCAB_SIZE)[-1:], [request]))
        reason = request.append(token_id)
        if reason is not None:
            return tuple(request.token_ids[request.num_prompt :]), reason


def random_params(rng: Random) -> SamplingParams:
    """Parameters for one request: many long greedy ones, and some of everything."""
    return SamplingParams(
        n=rng.choice((1, 1, 1, 1, 2, 3)),
        temperature=rng.choice((0.0, 0.0, 1.0)),
        top_p=rng.choice((1.0, 0.8)),
        repetition_penalty=rng.choice((1.0, 1.0, 1.0, 1.5)),
        presence_penalty=rng.choice((0.0, 0.0, 0.0, 0.7)),
        seed=rng.randint(0, 3),
        max_tokens=rng.choice((1, 3, 8, 20, None)),
        ignore_eos=rng.random() < 0.7,
        prompt_logprobs=rng.choice((None, None, None, 1)),
    )


class RandomArrivals(RuleBasedStateMachine):
    """One engine of random sizes, and what its clients do."""

    @initialize(
        page_size=st.sampled_from([1, 2, 3, 4, 8]),
        num_pages=st.integers(3, 24),
        max_batch_size=st.integers(2, 8),
        max_num_tokens=st.integers(2, 40),
        prefill_budget=st.none() | st.integers(1, 40),
        max_model_len=st.integers(16, 64),
        prefix_reuse=st.booleans(),
        overlap=st.booleans(),
    )
    def start(
        self,
        page_size: int,
        num_pages: int,
        max_batch_size: int,
        max_num_tokens: int,
        prefill_budget: int | None,
        max_model_len: int,
        prefix_reuse: bool,
        overlap: bool,
    ) -> None:
        runtime = RuntimeSettings(
            page_size=page_size,
            num_pages=num_pages,
            max_batch_size=max_batch_size,
            max_num_tokens=max_num_tokens,
            prefill_budget=prefill_budget,
            prefix_reuse=prefix_reuse,
            overlap=overlap,
        )
        self.model = FakeModel(VOCAB_SIZE, max_model_len)
        self.max_num_tokens = max_num_tokens
        self.engine = Engine.of(self.model, None, runtime, EOS)
        self.asked: dict[str, tuple[tuple[int, ...], SamplingParams]] = {}
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.reasons: dict[tuple[str, int], str] = {}
        self.num_added = 0

    @rule(seed=st.integers(0, 2**32), num_requests=st.integers(1, 8))
    def arrive(self, seed: int, num_requests: int) -> None:
        rng = Random(seed)
        for _ in range(num_requests):
            tail = rng.choices(range(VOCAB_SIZE), k=rng.choice((0, 1, 2, 5, 12)))
            prompt = (*rng.choice(PREFIXES)[: rng.randint(0, 8)], *tail)
            params = random_params(rng)
            if 0 < len(prompt) < self.engine.max_len:
                request_id = str(self.num_added)
                self.num_added += 1
                self.engine.add_request(request_id, list(prompt), params, stream=rng.random() < 0.5)
                self.asked[request_id] = (prompt, params)

    @precondition(lambda self: bool(self.asked))
    @rule(which=st.integers(0, 2**16))
    def cancel(self, which: int) -> None:
        request_id = list(self.asked)[which % len(self.asked)]
        output = self.engine.abort(request_id)
        assert output is not None
        assert output.finished
        self.take(output)
        prompt, params = self.asked.pop(request_id)
        for index in range(params.n):
            expected, _ = self.expect(prompt, params, index)
            got = tuple(self.tokens.pop((request_id, index), ()))
            assert got == expected[: len(got)]
        scheduler_of(self.engine).check_integrity()

    @rule(num_steps=st.integers(1, 12))
    def run_steps(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.step()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        num_steps = 0
        while self.engine.has_unfinished:
            self.step()
            num_steps += 1
            assert num_steps < 20_000, "the engine goes round in circles"
        assert not self.asked, "a request never ended"
        assert self.engine.stats().num_free_pages == self.engine.stats().num_pages

    def step(self) -> None:
        outputs = self.engine.step()
        scheduler_of(self.engine).check_integrity()
        assert all(num <= self.max_num_tokens for num in self.model.num_tokens_of_steps[-1:])
        for output in outputs:
            self.take(output)
            if output.finished:
                self.check(output)

    def take(self, output: RequestOutput) -> None:
        for completion in output.outputs:
            key = (output.request_id, completion.index)
            assert key not in self.reasons
            self.tokens.setdefault(key, []).extend(completion.token_ids)
            if completion.finish_reason not in (None, "abort"):
                self.reasons[key] = str(completion.finish_reason)

    def check(self, output: RequestOutput) -> None:
        prompt, params = self.asked.pop(output.request_id)
        for index in range(params.n):
            key = (output.request_id, index)
            assert (tuple(self.tokens[key]), self.reasons[key]) == self.expect(prompt, params, index)
        if params.prompt_logprobs is not None and len(prompt) > 1:
            assert output.prompt_logprobs is not None
            rows = zip(output.prompt_logprobs, prompt, strict=True)
            check_prompt_logprobs(prompt, [row[token].logprob if row else None for row, token in rows])

    def expect(self, prompt: tuple[int, ...], params: SamplingParams, index: int) -> tuple[tuple[int, ...], str]:
        return alone(prompt, params.model_dump_json(), self.engine.max_len, index)


def check_prompt_logprobs(prompt: tuple[int, ...], found: Sequence[float | None]) -> None:
    expected = torch.log_softmax(history_logits(prompt, VOCAB_SIZE).double(), dim=-1)
    assert found[0] is None
    for place, logprob in enumerate(found[1:], start=1):
        assert logprob is not None
        assert abs(logprob - expected[place - 1, prompt[place]].item()) < 1e-5


def arrivals(max_examples: int) -> type[TestCase]:
    """The machine as a test case that runs it so often."""
    case: type[TestCase] = type("TestCase", (RandomArrivals.TestCase,), {})
    case.settings = settings(  # type: ignore[attr-defined]
        max_examples=max_examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return case


TestRandomArrivals = arrivals(30)
TestManyRandomArrivals = pytest.mark.slow(arrivals(200))
