"""The runner: turns a batch into tensors, runs the model, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

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
        self._update_page_table(batch.items)
        if batch.is_decode:
            logits = self._model.forward(self._decode_inputs(batch.items), self._cache)
            return self._settle_logits(logits, batch.items, {})
        rows_of = _logit_rows(batch.items)
        logits = self._model.forward(self._mixed_inputs(batch.items, rows_of), self._cache)
        prompt_logprobs = _prompt_logprobs(logits, batch.items, rows_of)
        ends = accumulate(map(len, rows_of))
        last = [end - 1 for end, item in zip(ends, batch.items, strict=True) if item.samples]
        if len(last) != len(logits):
            logits = logits[torch.tensor(last, dtype=torch.int64, device=logits.device)]
        return self._settle_logits(logits, batch.sampling, prompt_logprobs)

    def _settle_logits(
        self, logits: Tensor, sampling: Sequence[BatchItem], prompt_logprobs: dict[int, list[TokenLogprobs]]
    ) -> StepResult:
        """Sample from `logits [N, vocab_size]`, a row for each of N sampling items."""
        if not sampling:
            return StepResult([], [], prompt_logprobs)
        token_ids: list[int] = self._sampler.sample(logits, [item.request for item in sampling]).tolist()
        return StepResult(token_ids, _sampled_logprobs(logits, sampling, token_ids), prompt_logprobs)

    def _decode_inputs(self, items: Sequence[BatchItem]) -> StepInputs:
        """The tensors of a step in which each item has one token and needs its logits."""
        rows = torch.tensor([item.row for item in items])
        first = torch.tensor([item.first for item in items])
        return self._inputs(
            items,
            input_ids=torch.tensor([item.request.token_ids[item.first] for item in items]),
            positions=first,
            query_start=torch.arange(len(items) + 1),
            context_len=first + 1,
            rows=rows,
            row_of_token=rows,
            logit_rows=torch.arange(len(items)),
        )

    def _mixed_inputs(self, items: Sequence[BatchItem], rows_of: Sequence[range]) -> StepInputs:
        """The tensors of a step with chunks of prompts."""
        rows = torch.tensor([item.row for item in items])
        first = torch.tensor([item.first for item in items])
        num_tokens = torch.tensor([item.num_tokens for item in items])
        query_start = torch.nn.functional.pad(num_tokens.cumsum(0), (1, 0))
        chunks = (item.request.token_ids[item.first : item.first + item.num_tokens] for item in items)
        input_ids = torch.tensor(list(chain.from_iterable(chunks)))
        return self._inputs(
            items,
            input_ids=input_ids,
            positions=torch.arange(len(input_ids)) + (first - query_start[:-1]).repeat_interleave(num_tokens),
            query_start=query_start,
            context_len=first + num_tokens,
            rows=rows,
            row_of_token=rows.repeat_interleave(num_tokens),
            logit_rows=torch.tensor(list(chain.from_iterable(rows_of)), dtype=torch.int64),
        )

    def _inputs(
        self,
        items: Sequence[BatchItem],
        *,
        input_ids: Tensor,
        positions: Tensor,
        query_start: Tensor,
        context_len: Tensor,
        rows: Tensor,
        row_of_token: Tensor,
        logit_rows: Tensor,
    ) -> StepInputs:
        """Look up the slots, and move everything to the model's device."""
        page_size, device = self._page_size, self._model.device
        pages = self._page_table[row_of_token, positions // page_size].long()
        num_pages = max(len(item.request.pages) for item in items)
        return StepInputs(
            input_ids=input_ids.to(device),
            position_ids=positions.to(device),
            query_start=query_start.to(device, torch.int32),
            context_len=context_len.to(device, torch.int32),
            page_table=self._page_table[rows, :num_pages].to(device),
            slots=(pages * page_size + positions % page_size).to(device),
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
