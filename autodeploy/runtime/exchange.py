"""Memory of the host that it shares with the device for one step: what to compute, and the tokens found."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.runtime.draft import Draft
from autodeploy.runtime.packing import StepSize
from autodeploy.runtime.tables import Tables


class Exchange:
    """Pinned where there is a GPU, so that copies need no host; it grows to the largest step that it has seen.

    It belongs to one step from `write` to `collect`.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._words = self._integers(1024)
        self._answers = self._integers(256)
        self._count = 0
        self._done = torch.cuda.Event() if self._pinned else None  # type: ignore[no-untyped-call]

    def write(self, draft: Draft, size: StepSize, tables: Tables) -> Tensor:
        """Words of a step that is padded to `size`, int64 on the host."""
        if size.num_words > len(self._words):
            self._words = self._integers(2 * size.num_words)
        words = self._words[: size.num_words]
        draft.write(words.numpy(), size, tables)
        return words

    def fetch(self, token_ids: Tensor) -> None:
        """Have sampled tokens int64 `[N]` sent here; the step is done when they are."""
        self._count = len(token_ids)
        if self._count > len(self._answers):
            self._answers = self._integers(2 * self._count)
        self._answers[: self._count].copy_(token_ids, non_blocking=True)
        if self._done is not None:
            self._done.record()

    def collect(self) -> list[int]:
        """Wait for the step to end; its tokens."""
        if self._done is not None:
            self._done.synchronize()
        found: list[int] = self._answers[: self._count].tolist()
        return found

    def _integers(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.int64, pin_memory=self._pinned)
