"""How far a program's predictions are from those of another, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autodeploy.program import Program
from autodeploy.runtime.step_inputs import step_inputs

PAGE_SIZE = 16
Windows = Sequence[Sequence[int]]
Predict = Callable[[Windows], Tensor]
"""From B windows of T token ids to what `predict` gives for them."""


@dataclass(frozen=True)
class Quality:
    """What a program's predictions are worth next to a reference's, over `num_tokens` predicted tokens of real text.

    `perplexity` is e to the mean negative log-likelihood; `kl` the mean Kullback-Leibler divergence of the program from
    the reference, in nats a token; `agreement` the part of tokens for which both find the same one likeliest.
    """

    num_tokens: int
    perplexity: float
    reference_perplexity: float
    kl: float
    agreement: float

    @property
    def increase(self) -> float:
        """By which part of it the perplexity grew."""
        return self.perplexity / self.reference_perplexity - 1

    def __str__(self) -> str:
        return (
            f"perplexity {self.perplexity:.3f} ({self.increase:+.2%} of {self.reference_perplexity:.3f}), "
            f"KL divergence {self.kl:.4f} nats a token, {self.agreement:.1%} the same likeliest token"
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON data."""
        return asdict(self)


def compare(
    reference: Program,
    candidate: Program,
    windows: Windows,
    observe: Callable[[int], None] = lambda _: None,
) -> Quality:
    """Run both over `windows` of token ids, each by itself; `observe` is told of the tokens of each.

    A window's first token is read and not predicted. Both programs may be on devices of their own.
    """
    return compare_predictions(partial(predict, reference), partial(predict, candidate), windows, observe)


def compare_predictions(
    reference: Predict,
    candidate: Predict,
    windows: Windows,
    observe: Callable[[int], None] = lambda _: None,
    at_once: int = 1,
) -> Quality:
    """As `compare`, of anything that predicts; `at_once` windows, all of one length, share a step."""
    sums = torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(windows), at_once):
        group = windows[start : start + at_once]
        told = reference(group).flatten(0, 1)
        said = candidate(group).flatten(0, 1).to(told.device)
        following = torch.tensor([token for window in group for token in window[1:]], device=told.device)
        sums += _differences(told, said, following).cpu()
        for window in group:
            observe(len(window))
    count = sum(len(window) - 1 for window in windows)
    return _quality(count, sums / count)


def _quality(count: int, means: Tensor) -> Quality:
    expected, found, kl, agreement = means.tolist()
    return Quality(count, math.exp(found), math.exp(expected), kl, agreement)


def predict(program: Program, windows: Windows) -> Tensor:
    """The logarithms of probabilities `[B, T - 1, vocabulary]`, float32, of what follows each token of B windows of T.

    They are computed in one step, and none sees another.
    """
    length = len(windows[0])
    num_pages = -(-length // PAGE_SIZE)
    cache = program.new_cache(num_pages * len(windows), PAGE_SIZE)
    inputs = step_inputs(windows, [0] * len(windows), program.device, PAGE_SIZE, num_pages)
    logits = program.forward(inputs, cache).reshape(len(windows), length, -1)
    return logits[:, :-1].float().log_softmax(-1)


def log_probs(program: Program, window: Sequence[int]) -> Tensor:
    """What `predict` gives for one window: `[T - 1, vocabulary]`."""
    return predict(program, [window])[0]


def _differences(told: Tensor, said: Tensor, following: Tensor) -> Tensor:
    """Sums of: negative log-likelihood of either, KL divergence, equal choices."""
    surprises = [-one.gather(1, following[:, None]).sum() for one in (told, said)]
    return torch.stack([*surprises, _divergence(told, said), (told.argmax(1) == said.argmax(1)).sum()]).double()


def divergence(told: Tensor, said: Tensor) -> float:
    """The KL divergence of `said` from `told`, logarithms of probabilities `[T, vocabulary]`, summed over tokens."""
    return _divergence(told, said).item()


def _divergence(told: Tensor, said: Tensor) -> Tensor:
    return (told.exp() * (told - said)).sum()
