"""A step as three small integer tensors: what the host sends to the device for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from autodeploy.runtime.batch import BatchItem
from autodeploy.runtime.transfer import integers, to_device

UNKNOWN = -1
"""Stands for a token id that only the device knows: the last one sampled for its row."""


@dataclass(frozen=True, slots=True)
class PackedStep:
    """T tokens of B requests, of which R rows need logits; int64, on the host or on the device.

    `tokens [3, T]`: the token's id (or `UNKNOWN`), its position, the row of its request in the runner's tables.
    `requests [3, B]`: that row, the tokens then in the cache, the end of the request's tokens in the step.
    `logit_rows [R]`.
    """

    tokens: Tensor
    requests: Tensor
    logit_rows: Tensor

    @classmethod
    def of(cls, items: Sequence[BatchItem], logit_rows: Sequence[int]) -> PackedStep:
        """The step that computes `items`."""
        rows = integers(item.row for item in items)
        first = integers(item.first for item in items)
        num_tokens = integers(item.num_tokens for item in items)
        ends = num_tokens.cumsum(0)
        token_ids = integers(chain.from_iterable(map(_token_ids, items)))
        positions, row_of_token = first, rows
        if len(token_ids) > len(items):  # a step of one token each is common, and has them already
            positions = torch.arange(len(token_ids)) + _repeated(first - ends + num_tokens, num_tokens)
            row_of_token = _repeated(rows, num_tokens)
        return cls(
            torch.stack((token_ids, positions, row_of_token)),
            torch.stack((rows, first + num_tokens, ends)),
            integers(logit_rows),
        )

    @classmethod
    def empty(cls) -> PackedStep:
        """The step of nobody, to be padded."""
        return cls(torch.empty(3, 0).long(), torch.empty(3, 0).long(), torch.empty(0).long())

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.tokens.shape[1]

    @property
    def num_requests(self) -> int:
        """B."""
        return self.requests.shape[1]

    def padded(self, num_tokens: int, num_requests: int, scrap_row: int) -> PackedStep:
        """The step with more tokens, requests and logit rows (as many as requests), all of which belong to nobody.

        Added tokens have the row `scrap_row`. A request that is added has one of them each while they last.
        """
        more_tokens = num_tokens - self.num_tokens
        more_requests = num_requests - self.num_requests
        ends = self.num_tokens + torch.arange(1, more_requests + 1).clamp(max=more_tokens)
        lengths = torch.ones(more_requests, dtype=torch.int64)
        rows = torch.full((more_requests,), scrap_row)
        of_tokens = torch.tensor([[0], [0], [scrap_row]]).expand(3, more_tokens)
        return PackedStep(
            torch.cat((self.tokens, of_tokens), dim=1),
            torch.cat((self.requests, torch.stack((rows, lengths, ends))), dim=1),
            torch.nn.functional.pad(self.logit_rows, (0, num_requests - len(self.logit_rows))),
        )

    def to(self, device: torch.device) -> PackedStep:
        """The step on `device`, in one copy that the host does not wait for."""
        flat = to_device(self.flat(), device)
        return PackedStep.from_flat(flat, self.num_tokens, self.num_requests)

    def flat(self) -> Tensor:
        """All of it in one tensor, so that one copy takes it to the device."""
        return torch.cat((self.tokens.flatten(), self.requests.flatten(), self.logit_rows))

    @classmethod
    def from_flat(cls, flat: Tensor, num_tokens: int, num_requests: int) -> PackedStep:
        """The step that `flat` made a tensor of."""
        end_of_tokens, end_of_requests = 3 * num_tokens, 3 * (num_tokens + num_requests)
        tokens, requests = flat[:end_of_tokens], flat[end_of_tokens:end_of_requests]
        return cls(tokens.view(3, -1), requests.view(3, -1), flat[end_of_requests:])


def _token_ids(item: BatchItem) -> list[int]:
    """The token ids of an item; where there is only one, it may be unknown here."""
    return item.request.token_ids[item.first : item.first + item.num_tokens] or [UNKNOWN]


def _repeated(values: Tensor, counts: Tensor) -> Tensor:
    """Each of `values [N]` as often as `counts [N]` says: PyTorch would wake every core for it and await the last."""
    return torch.from_numpy(values.numpy().repeat(counts.numpy()))
