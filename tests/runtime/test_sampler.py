"""Each sampling feature against a plain float64 reference over one row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from autodeploy.runtime.draws import uniform_draws
from autodeploy.runtime.request import Request
from autodeploy.runtime.sampler import Sampler, most_likely
from autodeploy.runtime.sampling_params import SamplingParams
from tests.runtime.fakes import new_request

VOCAB_SIZE = 12


def random_logits(num_rows: int, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 2


def new_sampler(vocab_size: int = VOCAB_SIZE, max_batch_size: int = 64) -> Sampler:
    return Sampler(vocab_size, max_batch_size, torch.device("cpu"))


def penalized(logits: Sequence[float], request: Request) -> list[float]:
    """Bias and penalties of one row, token by token."""
    params = request.params
    prompt, output = request.token_ids[: request.num_prompt], request.token_ids[request.num_prompt :]
    result = []
    for token, raw in enumerate(logits):
        logit = raw + (params.logit_bias or {}).get(token, 0.0)
        if token in request.stop_ids and len(output) < params.min_tokens:
            logit = -math.inf
        if token in prompt or token in output:
            logit = logit / params.repetition_penalty if logit > 0 else logit * params.repetition_penalty
        logit -= params.frequency_penalty * output.count(token)
        logit -= params.presence_penalty * (token in output)
        result.append(logit)
    return result


def distribution(logits: Sequence[float], request: Request) -> list[float]:
    """The probability of each token, one row at a time, as the definitions say it."""
    params = request.params
    adjusted = [logit / params.temperature for logit in penalized(logits, request)]
    weights = [math.exp(logit - max(adjusted)) for logit in adjusted]
    weights = [weight if weight >= params.min_p * max(weights) else 0.0 for weight in weights]
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    if params.top_k > 0:
        for token in order[params.top_k :]:
            weights[token] = 0.0
    total, before = sum(weights), 0.0
    for token in order:
        weight = weights[token]
        if before >= params.top_p * total:
            weights[token] = 0.0
        before += weight
    return [weight / sum(weights) for weight in weights]


def frequencies(logits: Tensor, params: SamplingParams, num_draws: int, **request: Sequence[int]) -> list[float]:
    """How often each token is drawn from one row, over many seeds."""
    requests = [new_request(params=params, seed=seed, row=seed, **request) for seed in range(num_draws)]  # type: ignore[arg-type]
    drawn = new_sampler(max_batch_size=num_draws).sample(logits.expand(num_draws, -1), requests)
    return (torch.bincount(drawn, minlength=logits.shape[-1]) / num_draws).tolist()


PARAMS = [
    SamplingParams(),
    SamplingParams(temperature=0.5),
    SamplingParams(temperature=3.0),
    SamplingParams(top_k=3),
    SamplingParams(top_k=-1, top_p=0.7),
    SamplingParams(top_p=0.05),
    SamplingParams(top_k=4, top_p=0.6),
    SamplingParams(min_p=0.2),
    SamplingParams(min_p=0.1, top_k=5, top_p=0.9),
    SamplingParams(repetition_penalty=2.0),
    SamplingParams(repetition_penalty=0.5, top_k=6),
    SamplingParams(presence_penalty=1.5),
    SamplingParams(frequency_penalty=-1.0),
    SamplingParams(logit_bias={3: 4.0, 5: -100.0}),
    SamplingParams(stop_token_ids=[0, 7], min_tokens=9),
    SamplingParams(
        temperature=0.8,
        logit_bias={2: 1.0},
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        top_k=7,
        top_p=0.9,
        min_p=0.02,
    ),
]


@pytest.mark.parametrize("params", PARAMS, ids=lambda params: params.model_dump_json(exclude_defaults=True))
def test_tokens_are_drawn_as_often_as_their_probability_says(params: SamplingParams) -> None:
    logits = random_logits(1, seed=4)[0]
    prompt, outputs = [1, 2, 2, 8], [3, 3, 5, 8]
    expected = distribution(logits.tolist(), new_request(prompt, params, outputs=outputs))
    num_draws = 10_000
    found = frequencies(logits, params, num_draws, prompt=prompt, outputs=outputs)
    for probability, frequency in zip(expected, found, strict=True):
        if probability == 0:
            assert frequency == 0
        deviation = math.sqrt(probability * (1 - probability) / num_draws)
        assert abs(frequency - probability) <= 5 * deviation + 1e-9


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    penalties=st.tuples(st.sampled_from([0.5, 1.0, 1.7]), st.floats(-2, 2), st.floats(-2, 2)),
    bias=st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.floats(-3, 3), max_size=3),
    prompt=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=6),
    outputs=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=6),
)
def test_greedy_takes_the_largest_adjusted_logit(
    seed: int,
    penalties: tuple[float, float, float],
    bias: dict[int, float],
    prompt: list[int],
    outputs: list[int],
) -> None:
    repetition, presence, frequency = penalties
    params = SamplingParams(
        temperature=0,
        logit_bias=bias,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    logits = random_logits(1, seed)
    request = new_request(prompt, params, outputs=outputs)
    adjusted = penalized(logits[0].tolist(), request)
    chosen = int(new_sampler().sample(logits, [request]))
    assert adjusted[chosen] == pytest.approx(max(adjusted), abs=1e-4)


def test_penalties_follow_a_request_from_step_to_step_and_a_row_to_its_next_request() -> None:
    params = SamplingParams(temperature=0, repetition_penalty=1.4, presence_penalty=0.6, frequency_penalty=0.5)
    sampler = new_sampler(max_batch_size=2)
    for life in range(3):
        requests = [new_request([life, row], params, row=row) for row in range(2)]
        for place in range(12):
            logits = random_logits(2, seed=100 * life + place)
            chosen = sampler.sample(logits, requests).tolist()
            fresh = [int(new_sampler().sample(logits[i : i + 1], [request])) for i, request in enumerate(requests)]
            assert chosen == fresh
            for request, token_id in zip(requests, chosen, strict=True):
                request.append(token_id)


def test_what_a_request_draws_does_not_depend_on_its_neighbours() -> None:
    requests = [new_request([1, 2], params, seed=i, row=i, outputs=[4, 4]) for i, params in enumerate(PARAMS)]
    requests += [new_request([1], SamplingParams(temperature=0), row=len(requests))]
    logits = random_logits(len(requests), seed=2)
    together = new_sampler().sample(logits, requests).tolist()
    alone = [int(new_sampler().sample(logits[i : i + 1], [request])) for i, request in enumerate(requests)]
    assert together == alone
    order = list(range(len(requests)))[::-1]
    backwards = new_sampler().sample(logits[order], [requests[i] for i in order]).tolist()
    assert backwards[::-1] == together


def test_draws_depend_on_seed_index_and_position() -> None:
    logits = torch.zeros(1, 4096)
    requests = [
        new_request(seed=1),
        new_request(seed=1),
        new_request(seed=2),
        new_request(seed=1, index=1),
        new_request(seed=1, outputs=[5]),
        new_request(seed=-1),
        new_request(seed=2**70),
    ]
    same, again, *others = new_sampler(4096).sample(logits.expand(len(requests), -1), requests).tolist()
    assert same == again
    assert len({same, *others}) == 1 + len(others)


def test_uniform_draws_are_splitmix64() -> None:
    # The first outputs of the generator seeded with 1234567, from the reference implementation in C.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    found = uniform_draws(np.full(3, 1234567, dtype=np.uint64), np.arange(3, dtype=np.uint64))
    assert found.tolist() == [(bits >> 11) * 2.0**-53 for bits in expected]


def test_equal_logits_are_ranked_by_token_id() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    found = frequencies(logits[0], SamplingParams(top_k=3), 300)
    assert all(frequency > 0.2 for frequency in found[:3])
    assert sum(found[3:]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_of_any_dtype_are_left_as_they_are(dtype: torch.dtype) -> None:
    logits = random_logits(len(PARAMS)).to(dtype)
    before = logits.clone()
    new_sampler().sample(logits, [new_request(params=params, row=i) for i, params in enumerate(PARAMS)])
    assert torch.equal(logits, before)


def test_a_tiny_temperature_is_greedy() -> None:
    logits = random_logits(1)
    assert int(new_sampler().sample(logits, [new_request(params=SamplingParams(temperature=1e-30))])) == logits.argmax()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_of_equally_likely_tokens_the_first_is_taken(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1, 3, 3, 2], [-4, -5, -4, -4], [0, 0, 0, 0]], dtype=dtype)
    assert most_likely(logits).tolist() == [1, 0, 0]
    assert most_likely(logits).dtype == torch.int64


def test_min_tokens_masks_the_end_until_then() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, 7] = 9
    params = SamplingParams(temperature=0, stop_token_ids=[7], min_tokens=2)
    assert int(new_sampler().sample(logits, [new_request(params=params, outputs=[1])])) != 7
    assert int(new_sampler().sample(logits, [new_request(params=params, outputs=[1, 2])])) == 7
