"""Attention over a paged cache, as far as its kernels care when they are chosen."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, order=True)
class Attention:
    """Attention of the rows of a step, apart from how many they are and how long their contexts.

    `dtype` and `cache` name dtypes: of queries and of what pages hold. `rotary` is how many elements of a head it
    turns, 0 where queries and keys come turned. Without a window or a soft cap, these are 0. `prompt` tells steps that
    have requests of several rows from those that have one row of each.
    """

    heads: int
    kv_heads: int
    key_width: int
    value_width: int
    dtype: str
    cache: str
    prompt: bool
    rotary: int = 0
    interleaved: bool = False
    window: int = 0
    softcap: float = 0.0
    has_sinks: bool = False
    has_slopes: bool = False
    has_scales: bool = False

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the queries and the result."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of the pages."""
        dtype: torch.dtype = getattr(torch, self.cache)
        return dtype

    @property
    def leaves_scores(self) -> bool:
        """Whether every key before a row counts by its product with the query alone, and is held as it was."""
        bent = (self.window, self.softcap, self.has_sinks, self.has_slopes, self.has_scales)
        return not any(bent) and self.cache == self.dtype

    @property
    def key_bytes(self) -> int:
        """What the cache holds of one key and its value."""
        return self.kv_heads * (self.key_width + self.value_width) * self.cache_dtype.itemsize

    def seen(self, context: int) -> int:
        """How many keys of a context its last row sees."""
        return min(context, self.window) if self.window else context

    def __str__(self) -> str:
        width = self.key_width if self.key_width == self.value_width else f"{self.key_width}/{self.value_width}"
        turned = f", rotated by {self.rotary}" if self.rotary else ""
        window = f", window {self.window}" if self.window else ""
        cap = f", cap {self.softcap:g}" if self.softcap else ""
        extra = ", sinks" * self.has_sinks + ", slopes" * self.has_slopes + ", scales" * self.has_scales
        kind = "prompts" if self.prompt else "decode"
        cached = "" if self.cache == self.dtype else f" over {self.cache}"
        return f"{kind} {self.heads}/{self.kv_heads} heads of {width} {self.dtype}{cached}{turned}{window}{cap}{extra}"
