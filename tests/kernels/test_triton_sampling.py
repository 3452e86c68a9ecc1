"""Sampling on the device gives the tokens that the runtime's sampler gives: same rules, same draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from autodeploy.runtime.packing import Kept
from autodeploy.runtime.request import Request
from autodeploy.runtime.sampler import Sampler
from autodeploy.runtime.sampling_params import SamplingParams
from tests.kernels.device import DEVICE, INTERPRETED, device_test, later
from tests.runtime.fakes import new_request

sampling = pytest.importorskip("autodeploy.kernels.triton.sampling")
GpuSampler = pytest.importorskip("autodeploy.runtime.gpu_sampler").GpuSampler

VOCAB_SIZE = 201 if INTERPRETED else 128256


def tensor(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def column(requests: Sequence[Request], name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return tensor([getattr(request.params, name) for request in requests], dtype)


def keys_of(requests: Sequence[Request]) -> Tensor:
    return torch.from_numpy(np.array([request.draw_key for request in requests], dtype=np.uint64).view(np.int64))


def bias_of(requests: Sequence[Request]) -> object:
    """The bias of each row, and what keeps it from stopping early, filled up to one length."""
    biases = []
    for request in requests:
        bias = dict(request.params.logit_bias or {})
        if request.num_output < request.params.min_tokens:
            bias |= dict.fromkeys(request.stop_ids, float("-inf"))
        biases.append(list(bias.items()))
    longest = max(len(bias) for bias in biases)
    filled = [bias + [(-1, 0.0)] * (longest - len(bias)) for bias in biases]
    return sampling.Bias(
        torch.tensor([[token for token, _ in bias] for bias in filled], dtype=torch.int32, device=DEVICE),
        torch.tensor([[value for _, value in bias] for bias in filled], device=DEVICE),
    )


def penalized_of(requests: Sequence[Request], vocab_size: int) -> object:
    counts = torch.zeros((len(requests), vocab_size), dtype=torch.int32)
    seen = torch.zeros((len(requests), vocab_size), dtype=torch.bool)
    for row, request in enumerate(requests):
        seen[row, request.token_ids[: request.num_prompt]] = True
        for token in request.token_ids[request.num_prompt :]:
            counts[row, token] += 1
    return sampling.Penalized(
        column(requests, "repetition_penalty"),
        column(requests, "presence_penalty"),
        column(requests, "frequency_penalty"),
        torch.arange(len(requests), device=DEVICE),
        counts.to(DEVICE),
        seen.to(DEVICE),
    )


def rules_of(requests: Sequence[Request], vocab_size: int, adjust: bool = False) -> object:
    return sampling.Rules(
        column(requests, "temperature"),
        column(requests, "top_k", torch.int32),
        column(requests, "top_p"),
        column(requests, "min_p"),
        keys_of(requests).to(DEVICE),
        tensor([request.num_output for request in requests], torch.int64),
        bias_of(requests) if adjust else None,
        penalized_of(requests, vocab_size) if adjust else None,
    )


def requests_of(options: dict[str, object], count: int) -> list[Request]:
    params = SamplingParams(max_tokens=None, **options)  # type: ignore[arg-type]
    return [new_request(params=params, seed=seed, outputs=range(seed % 5), row=seed) for seed in range(count)]


def expected(logits: Tensor, requests: Sequence[Request]) -> Tensor:
    return Sampler(logits.shape[1], len(requests), torch.device("cpu")).sample(logits.cpu().float(), requests)


RULES: list[dict[str, object]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.3},
    {"min_p": 0.1},
    {"top_k": 1},
    {"top_k": 7},
    {"top_p": 0.3},
    {"top_p": 0.95, "temperature": 1.7},
    {"top_p": 0.9, "top_k": 40, "min_p": 0.02, "temperature": 0.8},
    {"top_k": 100000, "top_p": 0.5},
]


@device_test
@pytest.mark.parametrize(
    ("rules", "near"),
    [
        *(later(rules, 4096) for rules in RULES[:7]),
        *((rules, 4096) for rules in RULES[7:]),
        later(RULES[7], 16),
        (RULES[8], 16),
    ],
    ids=str,
)
def test_rules(rules: dict[str, object], near: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `near` small, rows whose likely tokens are many are drawn from without being copied together."""
    monkeypatch.setattr(sampling, "NEAR", near)
    monkeypatch.setattr(sampling, "CHUNK", 64 if INTERPRETED else 4096)
    count = 6 if INTERPRETED else 64
    logits = (torch.randn(count, VOCAB_SIZE, generator=torch.Generator().manual_seed(0)) * 2).half().to(DEVICE)
    requests = requests_of(rules, count)
    found = sampling.sample(logits, rules_of(requests, VOCAB_SIZE)).cpu()
    # half: many equal logits; of a large vocabulary, float32 may move one draw across an edge between tokens
    assert int((found != expected(logits, requests)).sum()) <= (0 if INTERPRETED else 1)


@device_test
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_adjustments(temperature: float) -> None:
    options: dict[str, object] = {
        "temperature": temperature,
        "logit_bias": {5: 3.0, 9: -4.0, 70: 2.5},
        "min_tokens": 3,
        "stop_token_ids": [1, 2, 3],
        "repetition_penalty": 1.4,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.7,
    }
    requests = requests_of(options, 8)
    logits = torch.randn(8, 101, device=DEVICE)
    assert sampling.sample(logits, rules_of(requests, 101, adjust=True)).tolist() == expected(logits, requests).tolist()


@device_test
@pytest.mark.parametrize("count", [1, 6, 8])
def test_the_rules_of_requests_reach_the_device(count: int) -> None:
    """Whatever their number, each row of them is aligned: otherwise kernels would be compiled while requests wait."""
    requests = [requests_of(rules, count)[row] for row, rules in enumerate((RULES[8], *RULES[:7])[:count])]
    sampler = GpuSampler(VOCAB_SIZE, count, torch.device(DEVICE))
    logits = torch.randn(count, VOCAB_SIZE, device=DEVICE)
    assert sampler.sample(logits, requests).tolist() == expected(logits, requests).tolist()
    found, wanted = sampler._rules(requests), rules_of(requests, VOCAB_SIZE)
    for name in ("temperature", "top_p", "min_p", "top_k", "keys", "positions"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.dtype == other.dtype
        assert torch.equal(one[:count], other)
        assert one.data_ptr() % 16 == found.keys.data_ptr() % 16


@device_test
def test_rows_do_not_see_each_other() -> None:
    """Rows with rules of their own, alone and together, from logits that are a part of something wider."""
    requests = [requests_of(rules, 4)[3] for rules in RULES]
    logits = torch.randn(len(RULES), 2 * VOCAB_SIZE, device=DEVICE)[:, VOCAB_SIZE:]
    together = sampling.sample(logits, rules_of(requests, VOCAB_SIZE)).tolist()
    alone = [int(sampling.sample(logits[i : i + 1], rules_of([one], VOCAB_SIZE))) for i, one in enumerate(requests)]
    assert together == alone
    assert len(set(together)) > 3


@device_test
def test_most_likely() -> None:
    logits = torch.randn(5, VOCAB_SIZE, device=DEVICE)
    assert torch.equal(sampling.sample(logits), logits.argmax(-1))
    logits[:, 40] = logits[:, 30] = 100.0
    assert sampling.sample(logits.half()).tolist() == [30] * 5


@device_test
@pytest.mark.parametrize("drawn", [False, True])
def test_what_is_chosen_is_kept_for_the_next_step(drawn: bool) -> None:
    logits = torch.randn(3, 101, device=DEVICE)
    requests = requests_of({}, 3)
    kept = Kept(torch.full((6,), -1, device=DEVICE), torch.tensor([4, 0, 2], device=DEVICE))
    chosen = sampling.sample(logits, rules_of(requests, 101) if drawn else None, kept)
    assert kept.last_tokens[kept.rows].tolist() == chosen.tolist()
    assert kept.last_tokens[[1, 3, 5]].tolist() == [-1] * 3
