"""The runner: turns a batch into tensors, runs the model, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from autodeploy.runtime.batch import Batch, BatchItem
from autodeploy.runtime.logprobs import TokenLogprobs, token_logprobs
from autodeploy.runtime.model import Model, StepInputs
from autodeploy.runtime.sampler import Sampler


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found.

    `token_ids` and `logprobs` have an entry for each sampling item of the batch, in order (None where no logprobs were
    asked for). `prompt_logprobs[i]` is about the tokens that follow each token of item i, as far as the prompt goes.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: dict[int, list[TokenLogprobs]]


class Runner:
    """Owns the cache, and a page table with a row for each running request."""

    def __init__(self, model: Model, num_pages: int, page_size: int, max_batch_size: int, max_len: int) -> None:
        self._model = model
        self._page_size = page_size
        self._cache = model.new_cache(num_pages, page_size)
        self._page_table = torch.zeros((max_batch_size, -(-max_len // page_size)), dtype=torch.int32)
        self._sampler = Sampler(model.vocab_size, max_batch_size, model.device)

    @torch.inference_mode()
    def run(self, batch: Batch) -> StepResult:
        """Compute a batch that has at least one item."""
        rows_of = _logit_rows(batch.items)
        logits = self._model.forward(self._inputs(batch.items, rows_of), self._cache)
        sampling = batch.sampling
        sampled_logits = logits
        if sum(map(len, rows_of)) != len(sampling):  # prompt rows are among them
            ends = accumulate(map(len, rows_of))
            last = [end - 1 for end, item in zip(ends, batch.items, strict=True) if item.samples]
            sampled_logits = logits[torch.tensor(last, dtype=torch.int64, device=logits.device)]
        token_ids: list[int] = []
        if sampling:
            token_ids = self._sampler.sample(sampled_logits, [item.request for item in sampling]).tolist()
        return StepResult(
            token_ids,
            _sampled_logprobs(sampled_logits, sampling, token_ids),
            _prompt_logprobs(logits, batch.items, rows_of),
        )

    def _inputs(self, items: Sequence[BatchItem], rows_of: Sequence[range]) -> StepInputs:
        """The tensors of a step, on the model's device."""
        self._update_page_table(items)
        rows = torch.tensor([item.row for item in items])
        first = torch.tensor([item.first for item in items])
        page_size = self._page_size
        if all(item.num_tokens == 1 for item in items):
            input_ids = torch.tensor([item.request.token_ids[item.first] for item in items])
            query_start = torch.arange(len(items) + 1, dtype=torch.int32)
            positions, row_of_token = first, rows
            context_len = first + 1
        else:
            input_ids = torch.tensor(
                [token for item in items for token in item.request.token_ids[item.first : item.first + item.num_tokens]]
            )
            num_tokens = torch.tensor([item.num_tokens for item in items])
            query_start = torch.nn.functional.pad(num_tokens.cumsum(0), (1, 0)).to(torch.int32)
            before = (first - query_start[:-1]).repeat_interleave(num_tokens)
            positions = torch.arange(len(input_ids)) + before
            row_of_token = rows.repeat_interleave(num_tokens)
            context_len = first + num_tokens
        slots = self._page_table[row_of_token, positions // page_size].long() * page_size + positions % page_size
        num_pages = max(len(item.request.pages) for item in items)
        logit_rows = torch.tensor([row for rows in rows_of for row in rows], dtype=torch.int64)
        device = self._model.device
        return StepInputs(
            input_ids=input_ids.to(device),
            position_ids=positions.to(device),
            query_start=query_start.to(device),
            context_len=context_len.to(device, torch.int32),
            page_table=self._page_table[rows, :num_pages].to(device),
            slots=slots.to(device),
            logit_rows=logit_rows.to(device),
        )

    def _update_page_table(self, items: Sequence[BatchItem]) -> None:
        """Write only the pages that are new since a request's last step: a decode step has few."""
        for item in items:
            pages = item.request.pages
            if item.first_new_page < len(pages):
                new = torch.tensor(pages[item.first_new_page :], dtype=torch.int32)
                self._page_table[item.row, item.first_new_page : len(pages)] = new


def _logit_rows(items: Sequence[BatchItem]) -> list[range]:
    """For each item, the rows of the step whose logits are needed; a sampling item's last row is among them."""
    rows_of: list[range] = []
    end = 0
    for item in items:
        end += item.num_tokens
        needed = item.num_tokens if item.wants_prompt_rows else int(item.samples)
        rows_of.append(range(end - needed, end))
    return rows_of


def _sampled_logprobs(
    logits: Tensor, sampling: Sequence[BatchItem], token_ids: Sequence[int]
) -> list[TokenLogprobs | None]:
    """Logprobs of the sampled tokens, of the model's own logits: neither penalties nor temperature show."""
    result: list[TokenLogprobs | None] = [None] * len(sampling)
    wanted = [(i, item.request.params.logprobs) for i, item in enumerate(sampling)]
    rows = [i for i, num_top in wanted if num_top is not None]
    if rows:
        num_tops = [num_top for _, num_top in wanted if num_top is not None]
        index = torch.tensor(rows, device=logits.device)
        found = token_logprobs(logits[index], [token_ids[i] for i in rows], num_tops)
        for row, logprobs in zip(rows, found, strict=True):
            result[row] = logprobs
    return result


def _prompt_logprobs(
    logits: Tensor, items: Sequence[BatchItem], rows_of: Sequence[range]
) -> dict[int, list[TokenLogprobs]]:
    """Logprobs of the prompt tokens that follow those of each item that asks for them."""
    result: dict[int, list[TokenLogprobs]] = {}
    end = 0
    for i, (item, rows) in enumerate(zip(items, rows_of, strict=True)):
        start, end = end, end + len(rows)
        num_top = item.request.params.prompt_logprobs
        if item.wants_prompt_rows and num_top is not None:
            following = item.request.token_ids[item.first + 1 : item.first + 1 + item.num_tokens]
            block = logits[start : start + len(following)]
            result[i] = token_logprobs(block, following, [num_top] * len(following))
    return result
