"""The engine: prompts in, answers out, one step at a time."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING

from autodeploy.errors import RequestError
from autodeploy.runtime.completion import Completion, Generation
from autodeploy.runtime.messages import NewRequest, StepOutput, packed
from autodeploy.runtime.outputs import RequestOutput
from autodeploy.runtime.prompts import Prompt, check_prompt_len, check_token_ids, read_prompt
from autodeploy.runtime.protocol import Core
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.runtime.stats import EngineStats
from autodeploy.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:  # text needs no torch, which takes seconds to import
    from autodeploy.runtime.model import Model


class Engine:
    """Turns prompts into tokens for a core, and its tokens into text; not thread-safe.

    A step that raises leaves the engine unusable.
    """

    def __init__(self, core: Core, tokenizer: Tokenizer | None) -> None:
        self.core = core
        self.tokenizer = tokenizer
        self._generations: dict[str, Generation] = {}

    @classmethod
    def of(
        cls,
        model: Model,
        tokenizer: Tokenizer | None,
        settings: RuntimeSettings | None = None,
        eos_token_ids: Collection[int] = (),
    ) -> Engine:
        """An engine with its core in this process."""
        from autodeploy.runtime.core import EngineCore

        return cls(EngineCore(model, settings, eos_token_ids), tokenizer)

    @property
    def max_len(self) -> int:
        """The most tokens a request can have, prompt included."""
        return self.core.max_len

    @property
    def has_unfinished(self) -> bool:
        """Whether there is anything to step for."""
        return self.core.has_unfinished

    def stats(self) -> EngineStats:
        """The numbers behind `/metrics`."""
        return self.core.stats()

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
        text, token_ids = read_prompt(prompt, self.tokenizer, self.core.vocab_size)
        check_prompt_len(len(token_ids), self.max_len)
        seed = secrets.randbits(64) if params.seed is None else params.seed
        self.core.add(NewRequest(request_id, packed(token_ids), params, seed))
        completions = [Completion(index, token_ids, params, self.tokenizer, stream) for index in range(params.n)]
        self._generations[request_id] = Generation(request_id, text, token_ids, params, completions, stream)

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a request and free its pages now. Its last output, or None if it is unknown or has ended already."""
        generation = self._generations.pop(request_id, None)
        if generation is None:
            return None
        self.core.finish(request_id)
        open_ones = [one for one in generation.completions if not one.is_finished]
        for completion in open_ones:
            completion.finish("abort")
        return generation.report(open_ones if generation.stream else generation.completions)

    def step(self) -> list[RequestOutput]:
        """Advance the requests whose turn it is; their outputs."""
        return self._report(self.core.step())

    def _report(self, new: StepOutput) -> list[RequestOutput]:
        for rows in new.prompt_rows:
            generation = self._generations.get(rows.request_id)
            if generation is not None:
                generation.take_prompt(rows.first, rows.rows, self.tokenizer)
        moved: dict[str, list[Completion]] = {}
        for tokens in new.tokens:
            generation = self._generations.get(tokens.request_id)
            completion = None if generation is None else generation.completions[tokens.index]
            if completion is None or completion.is_finished:  # it ended here while the core went on
                continue
            if completion.advance(tokens):
                self.core.finish(tokens.request_id, tokens.index)
            moved.setdefault(tokens.request_id, []).append(completion)
        return [
            output for request_id, completions in moved.items() for output in self._outputs(request_id, completions)
        ]

    def _outputs(self, request_id: str, completions: list[Completion]) -> list[RequestOutput]:
        """What the client of a request hears now, if anything."""
        generation = self._generations[request_id]
        if generation.is_finished:
            del self._generations[request_id]
        if generation.stream:
            return [generation.report(completions)]
        return [generation.report(generation.completions)] if generation.is_finished else []

    def _check_params(self, params: SamplingParams) -> None:
        check_token_ids("logit_bias", list(params.logit_bias or {}), self.core.vocab_size)
        check_token_ids("stop_token_ids", params.stop_token_ids or [], self.core.vocab_size)
        if params.stop_strings and self.tokenizer is None:
            raise RequestError("stop strings need a tokenizer, which this model has not: use stop_token_ids")
