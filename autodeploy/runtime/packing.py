"""A step as integers: what the host sends to the device for it, in one copy."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

Integers = npt.NDArray[np.int64]
Array = TypeVar("Array", Tensor, Integers)


class StepSize(NamedTuple):
    """T tokens of B requests, R rows of logits, and N pages that the device has not been told of."""

    num_tokens: int
    num_requests: int
    num_logits: int
    num_pages: int

    def holds(self, other: StepSize) -> bool:
        """Whether a step of another size can be padded to this one."""
        return all(mine >= its for mine, its in zip(self, other, strict=True))

    @property
    def num_words(self) -> int:
        """How many int64 hold a step."""
        return _ends(self)[-1]


class PackedStep(NamedTuple, Generic[Array]):
    """A step in one piece of memory, int64, on the host or on the device.

    `token_ids`, `positions`, `slots` `[T]`: a token's id, or the negative number that `Tables.unknown` gives where only
    the device knows it; where it stands; where its keys and values go. `logit_rows [R]`: tokens whose logits are
    needed, and `kept_in [R]`: rows of the tables that keep what is sampled from each. `rows`, `context_len` `[B]`: the
    requests' own rows, and their tokens in the cache. `query_start [B + 1]`: their tokens in the step, as in
    `StepInputs`. `page_start [B + 1]`: which of `places`, `pages` `[N]`, the news for the page table, are whose.
    """

    token_ids: Array
    positions: Array
    slots: Array
    logit_rows: Array
    kept_in: Array
    rows: Array
    context_len: Array
    query_start: Array
    page_start: Array
    places: Array
    pages: Array

    @classmethod
    def over(cls, words: Array, size: StepSize) -> PackedStep[Array]:
        """The step that the first of some words hold."""
        return cls(*(words[start:end] for start, end in pairwise(_ends(size))))


class Kept(NamedTuple):
    """Where a step's tokens are kept for the next one: in `rows` int64 `[N]` of `last_tokens` int64, on the device."""

    last_tokens: Tensor
    rows: Tensor

    def keep(self, token_ids: Tensor) -> None:
        """Keep `token_ids` int64 `[N]`."""
        self.last_tokens[self.rows] = token_ids


@lru_cache(maxsize=256)
def _ends(size: StepSize) -> tuple[int, ...]:
    """Where the first part of a step begins in the words that hold it, and where each of them ends."""
    tokens, requests, logits, pages = size
    starts = requests + 1
    lengths = (tokens, tokens, tokens, logits, logits, requests, requests, starts, starts, pages, pages)
    return tuple(accumulate(lengths, initial=0))
