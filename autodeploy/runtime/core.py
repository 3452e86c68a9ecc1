"""The core of an engine: token ids in, token ids out, one step at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from autodeploy.errors import RecipeError
from autodeploy.runtime.batch import Batch
from autodeploy.runtime.clock import Phases, StepClock
from autodeploy.runtime.graphs import Bucket, captured_buckets
from autodeploy.runtime.memory import resolve_num_pages
from autodeploy.runtime.messages import NewRequest, NewTokens, PromptRows, StepOutput
from autodeploy.runtime.model import Model
from autodeploy.runtime.outputs import FinishReason
from autodeploy.runtime.prompts import check_prompt_len
from autodeploy.runtime.request import Request
from autodeploy.runtime.runner import Launched, Runner, StepResult
from autodeploy.runtime.scheduler import Scheduler
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.runtime.stats import EngineStats


class EngineCore:
    """Schedules and runs requests on one model in this process; not thread-safe.

    A step that raises leaves it unusable.
    """

    def __init__(
        self,
        model: Model,
        settings: RuntimeSettings | None = None,
        eos_token_ids: Collection[int] = (),
        notes: Sequence[str] = (),
        phases: Phases | None = None,
    ) -> None:
        phases = phases or Phases()
        self.notes = notes
        self.phases: Mapping[str, float] = phases.seconds
        settings = settings or RuntimeSettings()
        max_model_len = model.max_model_len if settings.max_model_len is None else settings.max_model_len
        if max_model_len > model.max_model_len:
            raise RecipeError(f"max_model_len={max_model_len} is more than the {model.max_model_len} of this model")
        num_pages = resolve_num_pages(model, settings, max_model_len)
        phases.mark("memory")
        self.settings = settings
        self.device = model.device
        self.clock = StepClock()
        self.scheduler = Scheduler(settings, num_pages, max_model_len)
        self._runner = Runner(
            model,
            num_pages,
            settings.page_size,
            settings.max_batch_size,
            self.scheduler.max_len,
            captured(model, settings),
        )
        phases.mark("cache and graphs")
        self._overlaps = model.device.type == "cuda" if settings.overlap is None else settings.overlap
        self._under_way: Launched | None = None
        self._vocab_size = model.vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._requests: dict[str, list[Request]] = {}
        self._num_steps = 0
        self._num_generated_tokens = 0

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self._vocab_size

    @property
    def max_len(self) -> int:
        """The most tokens a sequence can have, prompt included: the model's limit, or the whole cache if less."""
        return self.scheduler.max_len

    @property
    def has_unfinished(self) -> bool:
        """Whether there is anything to step for."""
        return self._under_way is not None or self.scheduler.has_unfinished

    def stats(self) -> EngineStats:
        """Gauges and counts."""
        scheduler = self.scheduler
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_pages=scheduler.pool.num_pages,
            num_free_pages=scheduler.pool.num_free,
            num_steps=self._num_steps,
            num_generated_tokens=self._num_generated_tokens,
            num_prompt_tokens=scheduler.stats.num_prompt_tokens,
            num_reused_tokens=scheduler.stats.num_reused_tokens,
            num_preemptions=scheduler.stats.num_preemptions,
        )

    def add(self, request: NewRequest) -> None:
        """Queue the sequences of a request; raises `RequestError`, and queues none, if its prompt cannot run."""
        check_prompt_len(len(request.token_ids), self.max_len)
        sequences = [
            Request(
                request.request_id,
                request.token_ids,
                request.params,
                max_len=self.max_len,
                seed=request.seed,
                index=index,
                eos_token_ids=self._eos_token_ids,
            )
            for index in range(request.params.n)
        ]
        self._requests[request.request_id] = sequences
        for sequence in sequences:
            self.scheduler.add(sequence)

    def finish(self, request_id: str, index: int | None = None) -> None:
        """End a sequence of a request, or all of them; their pages are free when this returns."""
        for sequence in self._requests.get(request_id, []):
            if not sequence.is_finished and index in (None, sequence.index):
                self.scheduler.finish(sequence, "abort")
        self._forget(request_id)

    def step(self) -> StepOutput:
        """Advance the requests whose turn it is.

        On a device that computes by itself, this starts a step and tells of the one before it, which ran while this
        one was prepared.
        """
        output = StepOutput([], [])
        self.clock.start()
        if self._under_way is not None and any(request.needs_known_tokens for request in self.scheduler.running):
            self._settle(output)
        launched = self._launch()
        if self._under_way is not None:
            self._settle(output)
        self._under_way = launched
        if launched is not None and not self._overlaps:
            self._settle(output)
        return output

    def _launch(self) -> Launched | None:
        """Start the next step; None when nobody has a token to compute."""
        batch = self.scheduler.schedule()
        self.clock.mark("schedule")
        if not batch.items:
            return None
        launched = self._runner.launch(batch)
        self.scheduler.expect(batch)
        self._num_steps += 1
        self.clock.mark("launch")
        return launched

    def _settle(self, output: StepOutput) -> None:
        """Wait for the step under way, and tell what it found."""
        assert self._under_way is not None
        batch, result = self._under_way.batch, self._under_way.collect()
        self._under_way = None
        self.clock.mark("wait")
        taken = self.scheduler.settle(batch, result.token_ids)
        self._num_generated_tokens += len(taken)
        self._report(batch, result, taken, output)
        self.clock.mark("settle")

    def _report(self, batch: Batch, result: StepResult, taken: Sequence[int], output: StepOutput) -> None:
        for i, rows in result.prompt_logprobs.items():
            item = batch.items[i]
            output.prompt_rows.append(PromptRows(item.request.parent_id, item.first + 1, rows))
        sampling = batch.sampling
        for i in taken:
            request, logprobs = sampling[i].request, result.logprobs[i]
            reason: FinishReason | None = request.finish_reason
            named = request.stop_reason if isinstance(request.stop_reason, int) else None
            output.tokens.append(
                NewTokens(
                    request.parent_id,
                    request.index,
                    [result.token_ids[i]],
                    [] if logprobs is None else [logprobs],
                    reason,
                    named,
                )
            )
            if reason is not None:
                self._forget(request.parent_id)

    def _forget(self, request_id: str) -> None:
        if all(sequence.is_finished for sequence in self._requests.get(request_id, [])):
            self._requests.pop(request_id, None)


def captured(model: Model, settings: RuntimeSettings) -> tuple[Bucket, ...]:
    """The steps of a model that become CUDA graphs; none where it does not run on a GPU, or cannot be captured."""
    if model.device.type != "cuda" or not settings.cuda_graphs or not model.is_capturable:
        return ()
    return captured_buckets(settings.max_num_tokens, settings.max_batch_size, settings.graph_batch_sizes)
