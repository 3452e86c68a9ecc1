"""The scheduler: which tokens of which requests the next step computes. Plain Python over integers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from autodeploy.runtime.batch import Batch, BatchItem
from autodeploy.runtime.chunks import next_chunk
from autodeploy.runtime.outputs import FinishReason
from autodeploy.runtime.pages import PagePool
from autodeploy.runtime.prompts import check_prompt_len
from autodeploy.runtime.request import Request, Status
from autodeploy.runtime.settings import RuntimeSettings


@dataclass(slots=True)
class SchedulerStats:
    """Counts since the start: preemptions, prompt tokens asked for, and those of them found in the cache."""

    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_reused_tokens: int = 0


class Scheduler:
    """First come, first served, over a fixed number of pages.

    `running` and `waiting` together are in order of arrival, and only the last of `running` can have more than one
    token to compute. So one pass over `running` serves decodes before prefills, the request that gives way when pages
    run out is always the last, and the first always goes on: every request ends.
    """

    def __init__(self, settings: RuntimeSettings, num_pages: int, max_model_len: int) -> None:
        self.pool = PagePool(num_pages)
        self.page_size = settings.page_size
        self.max_num_tokens = settings.max_num_tokens
        self.prefill_budget = settings.prefill_budget or settings.max_num_tokens
        self.prefix_reuse = settings.prefix_reuse
        self.max_len = min(max_model_len, num_pages * settings.page_size)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.stats = SchedulerStats()
        self._free_rows = list(range(min(settings.max_batch_size, settings.max_num_tokens)))[::-1]

    @property
    def has_unfinished(self) -> bool:
        """Whether a step would do something."""
        return bool(self.running or self.waiting)

    def add(self, request: Request) -> None:
        """Queue a request; raise `RequestError` if its prompt is empty or too long for the model or the cache."""
        check_prompt_len(request.num_prompt, self.max_len)
        self.stats.num_prompt_tokens += request.num_prompt
        self.waiting.append(request)

    def finish(self, request: Request, reason: FinishReason, stop_reason: int | str | None = None) -> None:
        """End a request now, wherever it stands; its pages are free when this returns."""
        if request.status is Status.WAITING:
            self.waiting.remove(request)
        elif request.status is Status.RUNNING:
            self.running.remove(request)
            self._free_rows.append(request.row)
        self.pool.free(request.finish(reason, stop_reason))

    def schedule(self) -> Batch:
        """Choose the next step's tokens, and hold the pages that they need."""
        items: list[BatchItem] = []
        budget = self._continue_running(items)
        self._admit_waiting(items, budget)
        return Batch(items)

    def expect(self, batch: Batch) -> None:
        """Book what a step that is under way computes, so that the next one can be scheduled before it ends.

        From now on others may find the pages that it fills.
        """
        for item in batch.items:
            item.request.num_computed += item.num_tokens
            item.request.num_expected += item.samples
            if self.prefix_reuse:
                self._register(item.request, item.request.num_computed)

    def settle(self, batch: Batch, token_ids: Sequence[int]) -> list[int]:
        """Hand out what a step has sampled: a token for each sampling item of `batch`, in order.

        Returns which of the sampling items took theirs: a request that has ended meanwhile takes no more.
        """
        taken = []
        for i, (item, token_id) in enumerate(zip(batch.sampling, token_ids, strict=True)):
            request = item.request
            request.num_expected -= 1
            if request.is_finished:
                continue
            taken.append(i)
            reason = request.append(token_id)
            if self.prefix_reuse and request.status is Status.RUNNING:
                self._register(request, request.num_computed)
            if reason is not None:
                named = reason == "stop" and token_id not in request.eos_token_ids
                self.finish(request, reason, token_id if named else None)
        return taken

    def check_integrity(self) -> None:
        """Assert what holds between steps."""
        self.pool.check_integrity(request.pages for request in self.running)
        assert all(request.status is Status.RUNNING for request in self.running)
        assert all(request.status is Status.WAITING and not request.pages for request in self.waiting)
        assert all(request.num_tokens - request.num_computed == 1 for request in self.running[:-1])
        rows = [request.row for request in self.running]
        assert len({*rows, *self._free_rows}) == len(rows) + len(self._free_rows), "a row is taken twice"

    def _continue_running(self, items: list[BatchItem]) -> int:
        """Add items for the running requests; returns how many more tokens of prompts the step takes."""
        page_size = self.page_size
        index = 0
        while index < len(self.running):  # shorter after a preemption, always at its end
            request = self.running[index]
            num_tokens = request.num_tokens
            if num_tokens >= request.max_len:  # its last token is expected
                index += 1
                continue
            if num_tokens > len(request.pages) * page_size and not self._grow(request):
                break
            pending = num_tokens - request.num_computed
            if pending > 1:  # it is the last
                budget = self._prompt_budget(len(items))
                return budget - self._put(items, request, min(pending, budget), samples=pending <= budget)
            self._put(items, request, 1, samples=True)
            index += 1
        return self._prompt_budget(len(items))

    def _prompt_budget(self, num_decodes: int) -> int:
        """How many tokens of prompts a step takes: fewer where the next tokens of others would wait for them."""
        budget = min(self.prefill_budget, self.max_num_tokens)
        if num_decodes:
            return max(1, budget - num_decodes)
        return max(budget, next_chunk(self._first_prompt(), self.max_num_tokens))

    def _first_prompt(self) -> int:
        """How many tokens the first prompt has still to compute, where nobody decodes."""
        for request in reversed(self.running):
            if request.num_tokens < request.max_len:
                return request.num_tokens - request.num_computed
        if not self.waiting:
            return 0
        request = self.waiting[0]
        return request.num_tokens - len(self._reusable(request)) * self.page_size

    def _grow(self, request: Request) -> bool:
        """Give a running request one more page, at the cost of the latest arrivals; False if it is the latest."""
        while not self.pool.can_allocate(1):
            victim = self.running.pop()
            self._free_rows.append(victim.row)
            self.pool.free(victim.preempt())
            self.waiting.appendleft(victim)
            self.stats.num_preemptions += 1
            if victim is request:
                return False
        request.pages += self.pool.allocate(1)
        return True

    def _admit_waiting(self, items: list[BatchItem], budget: int) -> None:
        """Start waiting requests while there are tokens, rows and pages for all the tokens known of them."""
        while self.waiting and budget > 0 and self._free_rows:
            request = self.waiting[0]
            if request.num_expected:  # preempted while a step was under way, whose token it must know
                break
            shared = self._reusable(request)
            num_new = -(-request.num_tokens // self.page_size) - len(shared)
            # Leave every running request a page to grow into, or the newcomer would soon be preempted again.
            if not self.pool.can_allocate(num_new + len(self.running), shared):
                break
            self.waiting.popleft()
            pages = self.pool.allocate(num_new, shared)
            request.start(self._free_rows.pop(), pages, len(shared), len(shared) * self.page_size)
            self.running.append(request)
            if request.num_output == 0:
                self.stats.num_reused_tokens += request.num_computed
            pending = request.num_tokens - request.num_computed
            budget -= self._put(items, request, min(pending, budget), samples=pending <= budget)

    def _reusable(self, request: Request) -> list[int]:
        """Pages that hold the request's first tokens already. Its last token is always computed, for its logits."""
        if not self.prefix_reuse or request.wants_prompt_rows:
            return []
        num_full = (request.num_tokens - 1) // self.page_size
        return self.pool.find(request.digest(page, self.page_size) for page in range(num_full))

    def _put(self, items: list[BatchItem], request: Request, num_tokens: int, *, samples: bool) -> int:
        """Add some of a request's tokens, up to the last known one if it samples; returns their number."""
        first, num_shown = request.num_computed, request.num_shown_pages
        assert num_tokens > 0, "the budgets cover every running request"
        items.append(BatchItem(request, request.row, first, num_tokens, num_shown, samples, request.wants_prompt_rows))
        request.num_shown_pages = len(request.pages)
        if self.prefix_reuse and self.waiting:  # else it can wait until the step is under way
            self._register(request, first + num_tokens)
        return num_tokens

    def _register(self, request: Request, num_written: int) -> None:
        """Let others find the pages that are filled with known tokens.

        They may do so in the very step that fills them, behind this request.
        """
        num_full = min(num_written, len(request.token_ids)) // self.page_size
        for page in range(request.num_registered_pages, num_full):
            self.pool.register(request.pages[page], request.digest(page, self.page_size))
            request.num_registered_pages = page + 1
