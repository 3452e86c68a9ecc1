"""How far two sets of results are apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """`after` against `before`: results of the same shape, such as logits `[N, vocabulary]` of the same N tokens.

    `relative` is `‖after - before‖ / ‖before‖`; `kl` the mean divergence of the tokens' distributions in nats,
    `KL(before ‖ after)`; `top1` the share of tokens whose likeliest successor is the same. Neither of the last two is
    known where the last dimension is no vocabulary.
    """

    bitwise: bool
    max_abs: float
    relative: float
    kl: float | None = None
    top1: float | None = None


def compare(before: Tensor, after: Tensor, *, over_vocabulary: bool) -> Difference:
    """The difference of two sets of results of any dtype, computed in float64."""
    if torch.equal(before, after):
        return Difference(True, 0.0, 0.0, *((0.0, 1.0) if over_vocabulary else ()))
    old, new = before.double(), after.double()
    return Difference(
        bitwise=False,
        max_abs=float((new - old).abs().max()),
        relative=relative_error(before, after),
        kl=_divergence(old, new) if over_vocabulary else None,
        top1=float((old.argmax(-1) == new.argmax(-1)).double().mean()) if over_vocabulary else None,
    )


def _divergence(old: Tensor, new: Tensor) -> float:
    old_log, new_log = old.log_softmax(-1), new.log_softmax(-1)
    divergence = (old_log.exp() * (old_log - new_log)).sum(-1).mean()
    return max(float(divergence), 0.0) if divergence.isfinite() else float("nan")


def relative_error(reference: Tensor, other: Tensor) -> float:
    """`‖other - reference‖ / ‖reference‖`, in float64; 0 where nothing differs, be the reference 0 as well."""
    wanted = reference.double()
    distance = (other.double() - wanted).norm()
    return float(distance / wanted.norm()) if distance != 0 else 0.0


def num_rows(results: Tensor) -> int:
    """How many rows of the last dimension there are: tokens, where the results are logits."""
    return results[..., 0].numel() if results.dim() else 1


def worst(differences: Iterable[Difference]) -> Difference:
    """Each figure at its worst; one that is not a number is worse than any."""
    many = list(differences)
    divergences = [one.kl for one in many if one.kl is not None]
    return Difference(
        bitwise=all(one.bitwise for one in many),
        max_abs=_largest(one.max_abs for one in many),
        relative=_largest(one.relative for one in many),
        kl=_largest(divergences) if divergences else None,
        top1=min((one.top1 for one in many if one.top1 is not None), default=None),
    )


def _largest(figures: Iterable[float]) -> float:
    return float(torch.tensor(list(figures), dtype=torch.float64).max())
