"""The runner: turns a batch into tensors, runs the model, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodeploy.kernels import triton
from autodeploy.runtime.batch import Batch, BatchItem
from autodeploy.runtime.draft import Draft
from autodeploy.runtime.exchange import Exchange
from autodeploy.runtime.graphs import Bucket, Capture, Computed, CudaCapture, StepGraphs
from autodeploy.runtime.logprobs import token_logprobs
from autodeploy.runtime.messages import TokenLogprobs
from autodeploy.runtime.model import Model
from autodeploy.runtime.packing import PackedStep, StepSize
from autodeploy.runtime.sampler import Sampler, takes_argmax
from autodeploy.runtime.tables import Tables
from autodeploy.runtime.transfer import to_device

if TYPE_CHECKING:
    from autodeploy.runtime.gpu_sampler import GpuSampler


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step found.

    `token_ids` and `logprobs` have an entry for each sampling item of the batch, in order (None where no logprobs were
    asked for). `prompt_logprobs[i]` is about the tokens that follow each token of item i, as far as the prompt goes.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: dict[int, list[TokenLogprobs]]


@dataclass(frozen=True, slots=True)
class Launched:
    """A step that the device may still be computing; its exchange is free again when it is collected."""

    batch: Batch
    exchange: Exchange
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: dict[int, list[TokenLogprobs]]

    def collect(self) -> StepResult:
        """Wait for the step to end."""
        return StepResult(self.exchange.collect(), self.logprobs, self.prompt_logprobs)


class Runner:
    """Owns the cache, and the tables with a row for each running request.

    `buckets` are the sizes of steps that are captured, by CUDA graphs unless `capture` is given.
    """

    def __init__(
        self,
        model: Model,
        num_pages: int,
        page_size: int,
        max_batch_size: int,
        max_len: int,
        buckets: Sequence[Bucket] = (),
        capture: Capture | None = None,
    ) -> None:
        self._model = model
        self._device = model.device
        self._cache = model.new_cache(num_pages + 1, page_size)  # the last one takes what padding writes
        self._tables = Tables(max_batch_size, -(-max_len // page_size), page_size, num_pages, model.device)
        self._sampler = choose_sampler(model, max_batch_size)
        self._exchange, self._next_exchange = Exchange(model.device), Exchange(model.device)
        self._graphs: StepGraphs | None = None
        if buckets:
            with torch.inference_mode():
                capture = capture or CudaCapture(model.device)
                self._graphs = StepGraphs(buckets, self._compute, self._tables, model.device, capture)

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Launched:
        """Start computing a batch that has at least one item, when all but the last one launched are collected."""
        draft = Draft.of(batch.items, self._tables)
        self._exchange, self._next_exchange = self._next_exchange, self._exchange
        computed = self._run(draft)
        prompt_logprobs = _prompt_logprobs(computed.logits, batch.items, draft.logit_counts)
        if draft.sampled is not None:
            sampled = to_device(torch.from_numpy(draft.sampled), self._device)
            computed = Computed(*(one[sampled] for one in computed))
        sampling = batch.sampling
        requests = [item.request for item in sampling]
        token_ids = computed.token_ids
        if not takes_argmax(requests):
            token_ids = self._sampler.sample(computed.logits, requests, self._tables.kept(computed.kept_in))
        self._exchange.fetch(token_ids)
        return Launched(batch, self._exchange, _sampled_logprobs(computed.logits, sampling, token_ids), prompt_logprobs)

    def _run(self, draft: Draft) -> Computed:
        size = draft.size
        captured = None if self._graphs is None else self._graphs.find(size)
        if captured is None:
            return self._launch(draft, size)
        words = self._exchange.write(draft, captured.size, self._tables)
        captured.words.copy_(words, non_blocking=True)
        return captured.run(size.num_logits)

    def _launch(self, draft: Draft, size: StepSize) -> Computed:
        """Run a step kernel by kernel."""
        asked, size = size.num_logits, size._replace(num_logits=max(size.num_logits, 1))  # kernels want rows
        words = self._exchange.write(draft, size, self._tables).to(self._device, non_blocking=True)
        computed = self._compute(PackedStep.over(words, size))
        return computed if asked else Computed(*(one[:0] for one in computed))

    def _compute(self, step: PackedStep[Tensor]) -> Computed:
        """Run a step on the device, and keep the likeliest tokens: most requests ask for them, and it costs little."""
        logits = self._model.forward(self._tables.inputs_of(step), self._cache)
        token_ids = self._sampler.most_likely(logits, self._tables.kept(step.kept_in))
        return Computed(logits, token_ids, step.kept_in)


def choose_sampler(model: Model, max_batch_size: int) -> Sampler | GpuSampler:
    """The sampler for where a model runs."""
    if model.device.type == "cpu" or triton.why_unavailable() is not None:
        return Sampler(model.vocab_size, max_batch_size, model.device)
    from autodeploy.runtime.gpu_sampler import GpuSampler

    return GpuSampler(model.vocab_size, max_batch_size, model.device)


def _sampled_logprobs(logits: Tensor, sampling: Sequence[BatchItem], token_ids: Tensor) -> list[TokenLogprobs | None]:
    """Logprobs of the sampled tokens, of the model's own logits: neither penalties nor temperature show."""
    result: list[TokenLogprobs | None] = [None] * len(sampling)
    wanted = [(i, item.request.params.logprobs) for i, item in enumerate(sampling)]
    rows = [i for i, num_top in wanted if num_top is not None]
    if rows:
        num_tops = [num_top for _, num_top in wanted if num_top is not None]
        index = torch.tensor(rows, device=logits.device)
        found = token_logprobs(logits[index], token_ids[index].tolist(), num_tops)
        for row, logprobs in zip(rows, found, strict=True):
            result[row] = logprobs
    return result


def _prompt_logprobs(
    logits: Tensor, items: Sequence[BatchItem], counts: Sequence[int] | None
) -> dict[int, list[TokenLogprobs]]:
    """Logprobs of the prompt tokens that follow those of each item that asks for them; `counts` are its rows."""
    result: dict[int, list[TokenLogprobs]] = {}
    if counts is None:
        return result
    end = 0
    for i, (item, count) in enumerate(zip(items, counts, strict=True)):
        start, end = end, end + count
        num_top = item.request.params.prompt_logprobs
        if item.wants_prompt_rows and num_top is not None:
            following = item.request.token_ids[item.first + 1 : item.first + 1 + item.num_tokens].tolist()
            block = logits[start : start + len(following)]
            result[i] = token_logprobs(block, following, [num_top] * len(following))
    return result
