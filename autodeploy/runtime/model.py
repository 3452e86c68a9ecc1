"""What the runtime needs of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The tensors of one step: T tokens of B requests, flattened into rows; R of the rows need logits.

    `input_ids`, `position_ids`, `slots` are int64 `[T]`, `query_start` int32 `[B + 1]`, `context_len` int32 `[B]`,
    `page_table` int32 `[B, P]`, `logit_rows` int64 `[R]`. Their meaning is that of `ops.attention.paged_attention`.
    Where R is T, the rows are all of them, in their order: a model need not read `logit_rows` then.
    """

    input_ids: Tensor
    position_ids: Tensor
    query_start: Tensor
    context_len: Tensor
    page_table: Tensor
    slots: Tensor
    logit_rows: Tensor


class Model(Protocol):
    """A causal language model over a paged cache."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""

    @property
    def max_model_len(self) -> int:
        """Positions the model can tell apart."""

    @property
    def is_capturable(self) -> bool:
        """Whether a CUDA graph can hold a step."""

    @property
    def device(self) -> torch.device:
        """Where the inputs of a step and the cache live."""

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        """Key and value pages of all layers; only pages 0 to `num_pages - 1` are used by the runtime."""

    def page_bytes(self, page_size: int) -> int:
        """Bytes of one page over all layers, at least 1."""

    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        """Write the tokens into the cache, and return the logits `[R, vocab_size]` in a floating dtype."""
