"""The engine: requests in, outputs out, one step at a time."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autodeploy.errors import RecipeError, RequestError
from autodeploy.runtime.batch import Batch
from autodeploy.runtime.completion import Completion, Generation
from autodeploy.runtime.graphs import Bucket, decode_buckets, mixed_buckets
from autodeploy.runtime.memory import resolve_num_pages
from autodeploy.runtime.model import Model
from autodeploy.runtime.outputs import PromptLogprobs, RequestOutput
from autodeploy.runtime.prompts import Prompt, check_token_ids, read_prompt
from autodeploy.runtime.request import Request
from autodeploy.runtime.runner import Launched, Runner, StepResult
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.scheduler import Scheduler
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.runtime.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges of this moment (`num_running`, `num_waiting`, pages), and counts since the start.

    Requests count each of the `n` completions of a prompt.
    """

    num_running: int
    num_waiting: int
    num_pages: int
    num_free_pages: int
    num_steps: int
    num_generated_tokens: int
    num_prompt_tokens: int
    num_reused_tokens: int
    num_preemptions: int


class Engine:
    """Serves requests on one model; not thread-safe. A step that raises leaves the engine unusable."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        settings: RuntimeSettings | None = None,
        eos_token_ids: Collection[int] = (),
    ) -> None:
        settings = settings or RuntimeSettings()
        max_model_len = model.max_model_len if settings.max_model_len is None else settings.max_model_len
        if max_model_len > model.max_model_len:
            raise RecipeError(f"max_model_len={max_model_len} is more than the {model.max_model_len} of this model")
        num_pages = resolve_num_pages(model, settings, max_model_len)
        self.tokenizer = tokenizer
        self.settings = settings
        self.scheduler = Scheduler(settings, num_pages, max_model_len)
        on_gpu = model.device.type == "cuda"
        self._runner = Runner(
            model,
            num_pages,
            settings.page_size,
            settings.max_batch_size,
            self.scheduler.max_len,
            _buckets(settings) if on_gpu and settings.cuda_graphs else (),
        )
        self._overlaps = on_gpu if settings.overlap is None else settings.overlap
        self._under_way: Launched | None = None
        self._vocab_size = model.vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)
        self._generations: dict[str, Generation] = {}
        self._num_steps = 0
        self._num_generated_tokens = 0

    @property
    def max_len(self) -> int:
        """The most tokens a request can have, prompt included: the model's limit, or the whole cache if less."""
        return self.scheduler.max_len

    @property
    def has_unfinished(self) -> bool:
        """Whether there is anything to step for."""
        return self._under_way is not None or self.scheduler.has_unfinished

    def stats(self) -> EngineStats:
        """The numbers behind `/metrics`."""
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

    def add_request(
        self, request_id: str, prompt: Prompt, params: SamplingParams | None = None, *, stream: bool = True
    ) -> None:
        """Queue a prompt. With `stream`, each step that moves it has an output of what is new, else one is at the end.

        Raises `RequestError`, and changes nothing, for a prompt or parameters that cannot be served, or a
        `request_id` still in use.
        """
        params = params or SamplingParams()
        if request_id in self._generations:
            raise RequestError(f"request id {request_id!r} is still in use")
        self._check_params(params)
        text, token_ids = read_prompt(prompt, self.tokenizer, self._vocab_size)
        self.scheduler.check_prompt_len(len(token_ids))
        seed = secrets.randbits(64) if params.seed is None else params.seed
        requests = [
            Request(
                request_id,
                token_ids,
                params,
                max_len=self.max_len,
                seed=seed,
                index=index,
                eos_token_ids=self._eos_token_ids,
            )
            for index in range(params.n)
        ]
        completions = [Completion(request, self.tokenizer, stream) for request in requests]
        prompt_logprobs: PromptLogprobs | None = None
        if params.prompt_logprobs is not None:
            prompt_logprobs = [None] * len(token_ids)
        generation = Generation(request_id, text, token_ids, completions, stream, prompt_logprobs)
        self._generations[request_id] = generation
        for request in requests:
            self.scheduler.add(request)

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a request and free its pages now. Its last output, or None if it is unknown or has ended already."""
        generation = self._generations.pop(request_id, None)
        if generation is None:
            return None
        open_ones = [one for one in generation.completions if not one.request.is_finished]
        for completion in open_ones:
            self.scheduler.finish(completion.request, "abort")
            completion.decode()
        return generation.report(open_ones if generation.stream else generation.completions)

    def step(self) -> list[RequestOutput]:
        """Advance the requests whose turn it is; their outputs.

        On a device that computes by itself, this starts a step and gives the outputs of the one before it, which ran
        while this one was prepared.
        """
        outputs: list[RequestOutput] = []
        if self._under_way is not None and any(request.needs_known_tokens for request in self.scheduler.running):
            outputs = self._settle()
        launched = self._launch()
        if self._under_way is not None:
            outputs += self._settle()
        self._under_way = launched
        if launched is not None and not self._overlaps:
            outputs += self._settle()
        return outputs

    def _launch(self) -> Launched | None:
        """Start the next step; None when nobody has a token to compute."""
        batch = self.scheduler.schedule()
        if not batch.items:
            return None
        launched = self._runner.launch(batch)
        self.scheduler.expect(batch)
        self._num_steps += 1
        return launched

    def _settle(self) -> list[RequestOutput]:
        """Wait for the step under way; the outputs of the requests that it moved."""
        assert self._under_way is not None
        batch, result = self._under_way.batch, self._under_way.collect()
        self._under_way = None
        taken = self.scheduler.settle(batch, result.token_ids)
        self._num_generated_tokens += len(taken)
        return self._report(batch, result, taken)

    def _report(self, batch: Batch, result: StepResult, taken: Sequence[int]) -> list[RequestOutput]:
        for i, rows in result.prompt_logprobs.items():
            item = batch.items[i]
            generation = self._generations.get(item.request.parent_id)
            if generation is not None:
                tokenizer = self.tokenizer if item.request.params.detokenize else None
                generation.take_prompt(item.first + 1, rows, tokenizer)
        moved: dict[str, list[Completion]] = {}
        sampling = batch.sampling
        for i in taken:
            request = sampling[i].request
            completion = self._generations[request.parent_id].completions[request.index]
            stop = completion.advance(result.logprobs[i])
            if stop is not None:
                self.scheduler.finish(request, "stop", stop)
            moved.setdefault(request.parent_id, []).append(completion)
        outputs = []
        for request_id, completions in moved.items():
            generation = self._generations[request_id]
            is_finished = generation.is_finished
            if is_finished:
                del self._generations[request_id]
            if generation.stream:
                outputs.append(generation.report(completions))
            elif is_finished:
                outputs.append(generation.report(generation.completions))
        return outputs

    def _check_params(self, params: SamplingParams) -> None:
        check_token_ids("logit_bias", list(params.logit_bias or {}), self._vocab_size)
        check_token_ids("stop_token_ids", params.stop_token_ids or [], self._vocab_size)
        if params.stop_strings and self.tokenizer is None:
            raise RequestError("stop strings need a tokenizer, which this model has not: use stop_token_ids")


def _buckets(settings: RuntimeSettings) -> tuple[Bucket, ...]:
    return decode_buckets(settings.max_batch_size) + mixed_buckets(settings.max_num_tokens)
