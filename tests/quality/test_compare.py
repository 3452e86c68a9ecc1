from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from transformers import PreTrainedModel

import autodeploy as ad
from autodeploy.optimizer import Optimized
from autodeploy.program import Program
from autodeploy.quality import compare, log_probs
from autodeploy.quality.compare import compare_predictions, predict
from autodeploy.testing import tiny_model
from autodeploy.weights import SafetensorsSource

WINDOWS = [torch.randint(90, (24,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(2)]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def optimized(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return ad.optimize(ad.trace(str(folder)), gpu="cpu", source=SafetensorsSource(folder))


def other(optimized: Optimized) -> Program:
    """The same program with some of its weights a little off."""
    program = ad.optimize(optimized.traced, gpu="cpu", source=optimized.source).program
    program._weights = [weight * (1 + 0.05 * torch.randn(weight.shape)) for weight in program._weights]
    return program


def test_the_figures_are_those_of_the_probabilities(optimized: Optimized) -> None:
    reference, candidate = optimized.program, other(optimized)
    quality = compare(reference, candidate, WINDOWS)
    told = torch.cat([log_probs(reference, window) for window in WINDOWS]).double()
    said = torch.cat([log_probs(candidate, window) for window in WINDOWS]).double()
    following = torch.tensor([token for window in WINDOWS for token in window[1:]])
    expected = torch.nn.functional.nll_loss(said, following).exp().item()
    divergence = torch.nn.functional.kl_div(said, told, log_target=True, reduction="batchmean").item()
    assert quality.num_tokens == 46
    assert quality.perplexity == pytest.approx(expected, rel=1e-5)
    assert quality.kl == pytest.approx(divergence, rel=1e-4)
    assert quality.kl > 0
    assert quality.agreement == pytest.approx((told.argmax(1) == said.argmax(1)).double().mean().item())
    assert f"{quality.increase:+.2%}" in str(quality)


def test_a_program_is_like_itself(optimized: Optimized) -> None:
    quality = compare(optimized.program, optimized.program, WINDOWS)
    assert (quality.kl, quality.agreement, quality.increase) == (0, 1, 0)


def test_the_probabilities_are_the_models_own(optimized: Optimized, model: PreTrainedModel) -> None:
    """Next to transformers' own."""
    with torch.inference_mode():
        expected = model(torch.tensor([WINDOWS[0]])).logits[0, :-1].log_softmax(-1)
    ours = log_probs(optimized.program, WINDOWS[0])
    assert (ours - expected).norm() / expected.norm() < 1e-5
    assert math.isclose(ours.exp().sum(-1).mean().item(), 1, rel_tol=1e-5)


def test_windows_that_share_a_step_do_not_see_each_other(optimized: Optimized) -> None:
    together = predict(optimized.program, WINDOWS)
    alone = torch.stack([log_probs(optimized.program, window) for window in WINDOWS])
    assert (together - alone).norm() <= 1e-5 * alone.norm()


def test_figures_do_not_depend_on_how_many_windows_share_a_step(optimized: Optimized) -> None:
    given = (partial(predict, optimized.program), partial(predict, other(optimized)), [*WINDOWS, WINDOWS[0]])
    alone, together = (compare_predictions(*given, at_once=at_once) for at_once in (1, 2))
    assert together.num_tokens == alone.num_tokens == 69
    assert together.kl == pytest.approx(alone.kl, rel=1e-4)
    assert together.perplexity == pytest.approx(alone.perplexity, rel=1e-5)


def test_tells_how_far_it_is(optimized: Optimized) -> None:
    told: list[int] = []
    compare(optimized.program, optimized.program, WINDOWS, told.append)
    assert told == [24, 24]
