"""Naming a mask by its values: causal, a window, ALiBi."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HIDDEN = -1e4
"""Scores are hidden by adding this, or less."""


@dataclass(frozen=True, eq=False)
class Mask:
    """What a mask does: hides later keys, or those outside a window, and adds slopes (ALiBi) to the rest."""

    causal: bool = False
    window: int | None = None
    slopes: Tensor | None = None

    def hides(self, num_tokens: int) -> Tensor:
        """Where a key is hidden: `[T, T]`, queries first."""
        at = torch.arange(num_tokens)
        distance = at[:, None] - at
        hidden = distance < 0 if self.causal else torch.zeros_like(distance, dtype=torch.bool)
        return hidden if self.window is None else hidden | (distance >= self.window)

    def __add__(self, other: Mask) -> Mask:
        """Both masks at once."""
        windows = [window for window in (self.window, other.window) if window is not None]
        slopes = [one for one in (self.slopes, other.slopes) if one is not None]
        return Mask(self.causal or other.causal, min(windows, default=None), sum(slopes) if slopes else None)  # type: ignore[arg-type]


def name_mask(values: Tensor) -> Mask | str:
    """The name of the mask `values`, or why it has none.

    `values` broadcast to `[B, H, T, T]`: boolean and True where a key is seen, or numbers added to the scores. Seen
    means exactly 0 or, for ALiBi, on a line that is the same for every query of a head but for a constant, which a
    softmax ignores. Hidden means -1e4 or less.
    """
    values = values.reshape((1,) * (4 - values.dim()) + tuple(values.shape))
    if values.shape[0] > 1 and not torch.equal(values, values[:1].expand_as(values)):
        return "it differs between the rows of a batch"
    values = values[0]
    hidden = ~values if values.dtype == torch.bool else values <= HIDDEN
    mask = _name_hidden(hidden)
    if isinstance(mask, str) or values.dtype == torch.bool or not values.masked_fill(hidden, 0).any():
        return mask
    slopes = _slopes(values, hidden)
    return Mask(mask.causal, mask.window, slopes) if isinstance(slopes, Tensor) else slopes


def _name_hidden(hidden: Tensor) -> Mask | str:
    """The mask that hides just these keys, the same for all heads."""
    if not hidden.any():
        return Mask()
    num_tokens = hidden.shape[-1]
    if not torch.equal(hidden, hidden[:1, -num_tokens:].expand(len(hidden), num_tokens, num_tokens)):
        return "it hides other keys in some heads"
    first = int((~hidden[0, -1]).long().argmax())  # the oldest key that the last query sees
    window = num_tokens - first if first else None
    mask = Mask(causal=True, window=window)
    return (
        mask if torch.equal(hidden[0], mask.hides(num_tokens)) else "it hides other keys than the later and the oldest"
    )


def _slopes(values: Tensor, hidden: Tensor) -> Tensor | str:
    """The slope of each head when the seen values lie on lines, or why they do not."""
    num_tokens = values.shape[-1]
    keys = torch.arange(num_tokens, dtype=torch.float64)
    values, seen = values.double(), ~hidden
    rises = (values[..., 1:] - values[..., :-1]).masked_fill(hidden[..., 1:] | hidden[..., :-1], 0)
    slopes = rises[:, -1:, -1:]
    lines = values - slopes * keys
    start = lines.gather(-1, seen.expand_as(lines).long().argmax(-1, keepdim=True))
    off = (lines - start).masked_fill(hidden, 0).abs().amax()
    if off > 1e-5 * max(1.0, float((slopes * num_tokens).abs().amax())):
        return "what it adds to the scores is not a line along the keys"
    return slopes.flatten().float()
