"""The runner: turns a batch into tensors, runs the model, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autodeploy.kernels import triton
from autodeploy.runtime.batch import Batch, BatchItem
from autodeploy.runtime.graphs import Bucket, StepGraphs
from autodeploy.runtime.logprobs import token_logprobs
from autodeploy.runtime.messages import TokenLogprobs
from autodeploy.runtime.model import Model
from autodeploy.runtime.packing import PackedStep
from autodeploy.runtime.sampler import Sampler
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
    """A step that the device may still be computing."""

    batch: Batch
    token_ids: Tensor
    """On the host; complete once `copied` has happened."""
    copied: torch.cuda.Event | None
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: dict[int, list[TokenLogprobs]]

    def collect(self) -> StepResult:
        """Wait for the step to end."""
        if self.copied is not None:
            self.copied.synchronize()
        return StepResult(self.token_ids.tolist(), self.logprobs, self.prompt_logprobs)


class Runner:
    """Owns the cache, and the tables with a row for each running request.

    `buckets` are the sizes of steps that become CUDA graphs, none of them elsewhere.
    """

    def __init__(
        self,
        model: Model,
        num_pages: int,
        page_size: int,
        max_batch_size: int,
        max_len: int,
        buckets: Sequence[Bucket] = (),
    ) -> None:
        self._model = model
        self._device = model.device
        self._cache = model.new_cache(num_pages + 1, page_size)  # the last one takes what padding writes
        self._tables = Tables(max_batch_size, -(-max_len // page_size), page_size, num_pages, model.device)
        self._sampler = choose_sampler(model, max_batch_size)
        self._graphs: StepGraphs | None = None
        if buckets:
            with torch.inference_mode():
                self._graphs = StepGraphs(buckets, self._forward, self._tables.scrap_row, model.device)

    @torch.inference_mode()
    def launch(self, batch: Batch) -> Launched:
        """Start computing a batch that has at least one item."""
        items = batch.items
        self._tables.show_pages(items)
        rows_of = _logit_rows(items)
        logits = self._run(PackedStep.of(items, list(chain.from_iterable(rows_of))))
        prompt_logprobs = _prompt_logprobs(logits, items, rows_of)
        ends = accumulate(map(len, rows_of))
        last = [end - 1 for end, item in zip(ends, items, strict=True) if item.samples]
        if len(last) != len(logits):
            logits = logits[to_device(torch.tensor(last, dtype=torch.int64), self._device)]
        return self._sample(batch, logits, prompt_logprobs)

    def _run(self, packed: PackedStep) -> Tensor:
        bucket = self._graphs.find(packed) if self._graphs is not None else None
        if self._graphs is not None and bucket is not None:
            return self._graphs.run(bucket, packed)
        return self._forward(packed.to(self._device))

    def _forward(self, packed: PackedStep) -> Tensor:
        return self._model.forward(self._tables.inputs_of(packed), self._cache)

    def _sample(self, batch: Batch, logits: Tensor, prompt_logprobs: dict[int, list[TokenLogprobs]]) -> Launched:
        """Sample from `logits [N, vocab_size]`, a row for each of N sampling items, and send the tokens to the host."""
        sampling = batch.sampling
        if not sampling:
            return Launched(batch, torch.empty(0, dtype=torch.int64), None, [], prompt_logprobs)
        token_ids = self._sampler.sample(logits, [item.request for item in sampling])
        rows = to_device(torch.tensor([item.row for item in sampling]), self._device)
        self._tables.keep_tokens(rows, token_ids)
        logprobs = _sampled_logprobs(logits, sampling, token_ids)
        if self._device.type == "cpu":
            return Launched(batch, token_ids, None, logprobs, prompt_logprobs)
        on_host = torch.empty(len(sampling), dtype=torch.int64, pin_memory=True)
        on_host.copy_(token_ids, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return Launched(batch, on_host, copied, logprobs, prompt_logprobs)


def choose_sampler(model: Model, max_batch_size: int) -> Sampler | GpuSampler:
    """The sampler for where a model runs."""
    if model.device.type == "cpu" or triton.why_unavailable() is not None:
        return Sampler(model.vocab_size, max_batch_size, model.device)
    from autodeploy.runtime.gpu_sampler import GpuSampler

    return GpuSampler(model.vocab_size, max_batch_size, model.device)


def _logit_rows(items: Sequence[BatchItem]) -> list[range]:
    """For each item, the rows of the step whose logits are needed; a sampling item's last row is among them."""
    rows_of: list[range] = []
    end = 0
    for item in items:
        end += item.num_tokens
        needed = item.num_tokens if item.wants_prompt_rows else int(item.samples)
        rows_of.append(range(end - needed, end))
    return rows_of


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
