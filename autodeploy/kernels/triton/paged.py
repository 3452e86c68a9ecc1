"""What the attention kernels share: the cache as a step sees it, and what becomes of a score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Paged:
    """The cache and the tables of a step, as `ops.paged_attention` takes them."""

    key_pages: Tensor
    value_pages: Tensor
    query_start: Tensor
    context_len: Tensor
    page_table: Tensor
    key_scale: Tensor | None = None
    value_scale: Tensor | None = None


@dataclass(frozen=True)
class Scoring:
    """The options of `ops.paged_attention`."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    alibi_slopes: Tensor | None = None


@dataclass(frozen=True)
class Fresh:
    """What a step adds to the cache: keys and values `[T, Hk, D]`, and the slot of each row.

    `cos, sin [T, R]` turn the keys and the queries first; without them, all come as they are.
    """

    k: Tensor
    v: Tensor
    slots: Tensor
    cos: Tensor | None = None
    sin: Tensor | None = None
    interleaved: bool = False

    @property
    def rotary(self) -> int:
        """How many elements of a head turn."""
        return 0 if self.cos is None else self.cos.shape[-1]
