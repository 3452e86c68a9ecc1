"""How far two sets of logits are apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """`after` against `before`: logits `[N, vocabulary]` of the same N tokens.

    `relative` is `‖after - before‖ / ‖before‖`; `kl` the mean divergence of the tokens' distributions in nats,
    `KL(before ‖ after)`; `top1` the share of tokens whose likeliest successor is the same.
    """

    bitwise: bool
    max_abs: float
    relative: float
    kl: float
    top1: float


def compare(before: Tensor, after: Tensor) -> Difference:
    """The difference of two sets of logits of any dtype, computed in float64."""
    old, new = before.double(), after.double()
    distance = new - old
    old_log, new_log = old.log_softmax(-1), new.log_softmax(-1)
    divergence = (old_log.exp() * (old_log - new_log)).sum(-1).mean()
    return Difference(
        bitwise=torch.equal(before, after),
        max_abs=float(distance.abs().max()),
        relative=relative_error(before, after),
        kl=max(float(divergence), 0.0) if divergence.isfinite() else float("nan"),
        top1=float((old.argmax(-1) == new.argmax(-1)).double().mean()),
    )


def relative_error(reference: Tensor, other: Tensor) -> float:
    """`‖other - reference‖ / ‖reference‖`, in float64."""
    wanted = reference.double()
    return float((other.double() - wanted).norm() / wanted.norm())


def worst(differences: Iterable[Difference]) -> Difference:
    """Each figure at its worst; one that is not a number is worse than any."""
    many = list(differences)
    return Difference(
        bitwise=all(one.bitwise for one in many),
        max_abs=_largest(one.max_abs for one in many),
        relative=_largest(one.relative for one in many),
        kl=_largest(one.kl for one in many),
        top1=min(one.top1 for one in many),
    )


def _largest(figures: Iterable[float]) -> float:
    return float(torch.tensor(list(figures), dtype=torch.float64).max())
