"""Memory of the host that it shares with the device for one step: what to compute, and the tokens found."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.runtime.draft import Draft
from autodeploy.runtime.packing import PackedStep, StepSize
from autodeploy.runtime.tables import Tables


class Exchange:
    """Pinned where there is a GPU, so that copies need no host; it grows to the largest step that it has seen.

    It belongs to one step from `write` to `collect`.
    """

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._written, self._fetched = self._integers(1024), self._integers(256)
        self._size = StepSize(0, 0, 0, 0)
        self._words, self._answers = self._written[:0], self._fetched[:0]
        self._parts = PackedStep.over(self._words.numpy(), self._size)
        self._done = torch.cuda.Event() if self._pinned else None  # type: ignore[no-untyped-call]

    def write(self, draft: Draft, size: StepSize, tables: Tables) -> Tensor:
        """Words of a step that is padded to `size`, int64 on the host."""
        if size != self._size:  # most steps are as large as the one before
            self._resize(size)
        draft.write(self._parts, size, tables)
        return self._words

    def _resize(self, size: StepSize) -> None:
        if size.num_words > len(self._written):
            self._written = self._integers(2 * size.num_words)
        self._size, self._words = size, self._written[: size.num_words]
        self._parts = PackedStep.over(self._words.numpy(), size)

    def fetch(self, token_ids: Tensor) -> None:
        """Have sampled tokens int64 `[N]` sent here; the step is done when they are."""
        count = len(token_ids)
        if count != len(self._answers):
            if count > len(self._fetched):
                self._fetched = self._integers(2 * count)
            self._answers = self._fetched[:count]
        self._answers.copy_(token_ids, non_blocking=True)
        if self._done is not None:
            self._done.record()

    def collect(self) -> list[int]:
        """Wait for the step to end; its tokens."""
        if self._done is not None:
            self._done.synchronize()
        found: list[int] = self._answers.tolist()
        return found

    def _integers(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.int64, pin_memory=self._pinned)
