"""Choosing the next tokens on a GPU, by kernels that sort nothing and wait for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from autodeploy.kernels.triton.sampling import Bias, Penalized, Rules, sample
from autodeploy.runtime.packing import Kept
from autodeploy.runtime.penalties import Penalties
from autodeploy.runtime.request import Request
from autodeploy.runtime.sampler import biases_of, takes_argmax
from autodeploy.runtime.transfer import to_device

ALIGNED = 4  # numbers; Triton compiles a kernel once more for rows that do not begin at 16 bytes


class GpuSampler:
    """Does what `autodeploy.runtime.sampler.Sampler` does; sums of many probabilities may differ in their last bits."""

    def __init__(self, vocab_size: int, max_batch_size: int, device: torch.device) -> None:
        self._penalties = Penalties(vocab_size, max_batch_size, device)
        self._device = device

    def most_likely(self, logits: Tensor, kept: Kept | None = None) -> Tensor:
        """The first of the largest in each row of `logits [N, vocab_size]`: int64 `[N]`, which `kept` gets as well."""
        return sample(logits, kept=kept)

    def sample(self, logits: Tensor, requests: Sequence[Request], kept: Kept | None = None) -> Tensor:
        """Token ids int64 `[N]` for N requests, from `logits [N, vocab_size]` of any floating dtype, left unchanged.

        `kept` gets them as well.
        """
        return sample(logits, None if takes_argmax(requests) else self._rules(requests), kept)

    def _rules(self, requests: Sequence[Request]) -> Rules:
        """The rules of all requests, in one copy but for what few of them have."""
        params, count = [request.params for request in requests], len(requests)
        width = -(-count // ALIGNED) * ALIGNED
        words = np.zeros((4, width), dtype=np.int64)
        words[0, :count] = np.array([request.draw_key for request in requests], dtype=np.uint64).view(np.int64)
        words[1, :count] = [request.num_drawn for request in requests]
        floats, integers = (words[2:].view(dtype).reshape(4, width) for dtype in (np.float32, np.int32))
        floats[0, :count] = [one.temperature for one in params]
        floats[1, :count] = [one.top_p for one in params]
        floats[2, :count] = [one.min_p for one in params]
        integers[3, :count] = [max(one.top_k, 0) for one in params]
        there = to_device(torch.from_numpy(words), self._device)
        temperature, top_p, min_p, _ = there[2:].view(torch.float32).view(4, width)
        return Rules(
            temperature=temperature,
            top_p=top_p,
            min_p=min_p,
            top_k=there[2:].view(torch.int32).view(4, width)[3],
            keys=there[0],
            positions=there[1],
            bias=self._bias(requests),
            penalized=self._penalized(requests),
        )

    def _bias(self, requests: Sequence[Request]) -> Bias | None:
        """The biases of all requests, each row filled up with tokens that do not exist."""
        biases = [biases_of(request) for request in requests]
        most = max(map(len, biases))
        if not most:
            return None
        tokens = torch.full((len(requests), most), -1, dtype=torch.int32)
        values = torch.zeros((len(requests), most), dtype=torch.float32)
        for row, bias in enumerate(biases):
            tokens[row, : len(bias)] = torch.tensor(list(bias), dtype=torch.int32)
            values[row, : len(bias)] = torch.tensor(list(bias.values()), dtype=torch.float32)
        return Bias(to_device(tokens, self._device), to_device(values, self._device))

    def _penalized(self, requests: Sequence[Request]) -> Penalized | None:
        """The penalties of all requests; those without any have ones that change nothing."""
        if not any(request.params.has_penalties for request in requests):
            return None
        output_counts, prompt_seen = self._penalties.count([one for one in requests if one.params.has_penalties])
        params = [request.params for request in requests]
        repetition, presence, frequency = self._rows(
            [
                [one.repetition_penalty for one in params],
                [one.presence_penalty for one in params],
                [one.frequency_penalty for one in params],
            ]
        )
        rows = to_device(torch.tensor([request.row for request in requests]), self._device)
        return Penalized(repetition, presence, frequency, rows, output_counts, prompt_seen)

    def _rows(self, values: Sequence[Sequence[float]]) -> Tensor:
        return to_device(torch.tensor(values, dtype=torch.float32), self._device)
