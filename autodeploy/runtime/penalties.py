"""Repetition, presence and frequency penalties."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodeploy.runtime.request import Request
from autodeploy.runtime.transfer import to_device


class Penalties:
    """Token counts of the requests that use penalties, kept on the device between steps.

    The counts are two tables `[max_batch_size, vocab_size]`, made when the first such request comes.
    """

    def __init__(self, vocab_size: int, max_batch_size: int, device: torch.device) -> None:
        self._shape = (max_batch_size, vocab_size)
        self._device = device
        self._output_counts: Tensor | None = None  # int32
        self._prompt_seen: Tensor | None = None  # bool
        self._counted: dict[int, tuple[Request, int]] = {}  # by row: whose counts these are, and of how many outputs

    def apply(self, logits: Tensor, requests: Sequence[Request]) -> Tensor:
        """Penalize `logits [N, vocab_size]` (float32) of N requests by the tokens that each has so far.

        As in vLLM: a token of the prompt or the output has its logit divided (or, if negative, multiplied) by
        `repetition_penalty`; then `frequency_penalty` is taken off for each time it is in the output, and
        `presence_penalty` once.
        """
        rows = to_device(torch.tensor([request.row for request in requests]), self._device)
        output_counts, prompt_seen = self.count(requests)
        counts, seen = output_counts[rows], prompt_seen[rows]
        repetition, presence, frequency = (
            to_device(torch.tensor(values, dtype=torch.float32), self._device).unsqueeze(1)
            for values in (
                [request.params.repetition_penalty for request in requests],
                [request.params.presence_penalty for request in requests],
                [request.params.frequency_penalty for request in requests],
            )
        )
        repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
        logits = torch.where(seen | (counts > 0), repeated, logits)
        return logits - frequency * counts - presence * (counts > 0)

    def count(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        """Count the tokens that are new since the last step.

        Gives how often each token is in a row's output, int32 `[max_batch_size, vocab_size]`, and whether it is in its
        prompt, bool of that shape.
        """
        if self._output_counts is None or self._prompt_seen is None:
            self._output_counts = torch.zeros(self._shape, dtype=torch.int32, device=self._device)
            self._prompt_seen = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
        rows: list[int] = []
        tokens: list[int] = []
        for request in requests:
            owner, num_counted = self._counted.get(request.row, (None, 0))
            if owner is not request:
                num_counted = 0
                self._output_counts[request.row] = 0
                self._prompt_seen[request.row] = False
                prompt = to_device(torch.tensor(request.token_ids[: request.num_prompt].tolist()), self._device)
                self._prompt_seen[request.row, prompt] = True
            new = request.token_ids[request.num_prompt + num_counted :]
            tokens += new
            rows += [request.row] * len(new)
            self._counted[request.row] = (request, request.num_output)
        if tokens:
            index = to_device(torch.tensor([rows, tokens]), self._device)
            one = torch.ones((), dtype=torch.int32, device=self._device)
            self._output_counts.index_put_((index[0], index[1]), one, accumulate=True)
        return self._output_counts, self._prompt_seen
