"""How far a program's predictions are from those of another, token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from autodeploy.program import Program
from autodeploy.runtime.step_inputs import step_inputs

PAGE_SIZE = 16


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
    windows: Sequence[Sequence[int]],
    observe: Callable[[int], None] = lambda _: None,
) -> Quality:
    """Run both over `windows` of token ids, each by itself; `observe` is told of the tokens of each.

    A window's first token is read and not predicted. Both programs may be on devices of their own.
    """
    (quality,) = compare_all(reference, {"": candidate}, windows, observe).values()
    return quality


def compare_all(
    reference: Program,
    candidates: Mapping[str, Program],
    windows: Sequence[Sequence[int]],
    observe: Callable[[int], None] = lambda _: None,
) -> dict[str, Quality]:
    """Each of `candidates`, by its name, next to `reference`, which runs once for all of them."""
    sums = {name: torch.zeros(4, dtype=torch.float64) for name in candidates}
    for window in windows:
        told = log_probs(reference, window)
        following = torch.tensor(window[1:], device=told.device)
        for name, candidate in candidates.items():
            sums[name] += _differences(told, log_probs(candidate, window).to(told.device), following).cpu()
        observe(len(window))
    count = sum(len(window) - 1 for window in windows)
    return {name: _quality(count, whole / count) for name, whole in sums.items()}


def _quality(count: int, means: Tensor) -> Quality:
    expected, found, kl, agreement = means.tolist()
    return Quality(count, math.exp(found), math.exp(expected), kl, agreement)


def log_probs(program: Program, window: Sequence[int]) -> Tensor:
    """The logarithm of the probabilities `[T - 1, vocabulary]`, float32, of what follows each token of a window."""
    num_pages = -(-len(window) // PAGE_SIZE)
    cache = program.new_cache(num_pages, PAGE_SIZE)
    logits = program.forward(step_inputs([window], [0], program.device, PAGE_SIZE, num_pages), cache)
    return logits[:-1].float().log_softmax(-1)


def _differences(told: Tensor, said: Tensor, following: Tensor) -> Tensor:
    """Sums of: negative log-likelihood of either, KL divergence, equal choices."""
    surprises = [-one.gather(1, following[:, None]).sum() for one in (told, said)]
    return torch.stack([*surprises, _divergence(told, said), (told.argmax(1) == said.argmax(1)).sum()]).double()


def divergence(told: Tensor, said: Tensor) -> float:
    """The KL divergence of `said` from `told`, logarithms of probabilities `[T, vocabulary]`, summed over tokens."""
    return _divergence(told, said).item()


def _divergence(told: Tensor, said: Tensor) -> Tensor:
    return (told.exp() * (told - said)).sum()
