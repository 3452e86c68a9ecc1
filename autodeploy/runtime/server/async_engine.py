"""An engine in a thread of its own, asked and answered from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, TypeVar

from autodeploy.errors import AutodeployError
from autodeploy.runtime.outputs import RequestOutput
from autodeploy.runtime.prompts import Prompt
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.stats import EngineStats
from autodeploy.runtime.tokenizer import Tokenizer

Received = TypeVar("Received")
PromptMaker = Callable[[Tokenizer | None], Sequence[Prompt]]


class EngineLike(Protocol):
    """What the server asks of an engine."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Turns text into tokens and back, if the model has one."""

    @property
    def max_len(self) -> int:
        """The most tokens of a request, prompt included."""

    @property
    def has_unfinished(self) -> bool:
        """Whether there is anything to step for."""

    def add_request(
        self, request_id: str, prompt: Prompt, params: SamplingParams | None = None, *, stream: bool = True
    ) -> None:
        """Queue a prompt, or raise RequestError."""

    def abort(self, request_id: str) -> RequestOutput | None:
        """End a request now."""

    def step(self) -> list[RequestOutput]:
        """Advance the requests whose turn it is."""

    def stats(self) -> EngineStats:
        """Gauges and counts."""


class EngineStoppedError(AutodeployError):
    """The engine has failed or was shut down, and answers nothing more."""


@dataclass(eq=False)
class Answers:
    """The answers to the prompts of one HTTP request, as they grow. Whoever holds it must `abort` it in the end."""

    request_id: str
    loop: asyncio.AbstractEventLoop
    commands: SimpleQueue[Callable[[], None] | None]
    engine_abort: Callable[[Answers], None]
    received: asyncio.Queue[tuple[int, RequestOutput] | Exception] = field(default_factory=asyncio.Queue)
    num_open: int = 0
    accepted: asyncio.Future[None] = field(init=False)

    def __post_init__(self) -> None:
        self.accepted = self.loop.create_future()

    async def __aiter__(self) -> AsyncIterator[tuple[int, RequestOutput]]:
        """What is new: the number of a prompt, and the output."""
        while self.num_open:
            item = await self.received.get()
            if isinstance(item, Exception):
                raise item
            self.num_open -= item[1].finished
            yield item

    def abort(self) -> None:
        """Free what is still running; nothing happens when all has ended."""
        self.commands.put(lambda: self.engine_abort(self))

    def accept(self, error: Exception | None) -> None:
        """Called on the event loop when the engine has taken or refused the prompts."""
        if self.accepted.done():  # whoever asked has gone
            return
        if error is None:
            self.accepted.set_result(None)
        else:
            self.accepted.set_exception(error)


class AsyncEngine:
    """Owns the thread in which alone the engine, and its tokenizer, are used: neither is safe to share."""

    def __init__(self, engine: EngineLike) -> None:
        self.engine = engine
        self.failure: Exception | None = None
        self._commands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._open: dict[str, tuple[Answers, int]] = {}
        self._thread = Thread(target=self._run, name="autodeploy-engine", daemon=True)
        self._num_submitted = 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """End all requests and the thread."""
        self._commands.put(None)
        await asyncio.to_thread(self._thread.join)

    async def submit(self, make_prompts: PromptMaker, params: SamplingParams, *, stream: bool) -> Answers:
        """Queue the prompts that `make_prompts` makes with the tokenizer; if one is refused, none is queued."""
        self._num_submitted += 1
        answers = Answers(str(self._num_submitted), asyncio.get_running_loop(), self._commands, self._abort)
        self._commands.put(lambda: self._add(answers, make_prompts, params, stream))
        try:
            await answers.accepted
        except BaseException:  # refused, or the client left while it waited; a cancellation is no Exception
            answers.abort()
            raise
        return answers

    def _run(self) -> None:
        try:
            while self._take_commands():
                for output in self.engine.step():
                    self._deliver(output)
        except Exception as error:  # a failed step leaves the engine unusable: every client must hear of it
            self._end(EngineStoppedError(f"the engine failed: {type(error).__name__}: {error}"))
            self._refuse_until_stopped()
        else:
            self._end(EngineStoppedError("the server is shutting down"))

    def _take_commands(self) -> bool:
        """Obey what is queued, and wait for more while there is nothing to step for; False when told to stop."""
        while not self._commands.empty() or not self.engine.has_unfinished:
            command = self._commands.get()
            if command is None:
                return False
            command()
        return True

    def _refuse_until_stopped(self) -> None:
        while (command := self._commands.get()) is not None:
            command()

    def _add(self, answers: Answers, make_prompts: PromptMaker, params: SamplingParams, stream: bool) -> None:
        if self.failure is not None:
            _post(answers.loop, answers.accept, self.failure)
            return
        try:
            prompts = make_prompts(self.engine.tokenizer)
            for index, prompt in enumerate(prompts):
                request_id = f"{answers.request_id}/{index}"
                self.engine.add_request(request_id, prompt, params, stream=stream)
                self._open[request_id] = (answers, index)
        except Exception as error:  # a tokenizer may fail on a text in its own way, which is no reason to stop serving
            self._abort(answers)
            _post(answers.loop, answers.accept, error)
            return
        answers.num_open = len(prompts)
        _post(answers.loop, answers.accept, None)

    def _abort(self, answers: Answers) -> None:
        for request_id in [one for one, (owner, _) in self._open.items() if owner is answers]:
            del self._open[request_id]
            self.engine.abort(request_id)

    def _deliver(self, output: RequestOutput) -> None:
        answers, index = self._open[output.request_id]
        if output.finished:
            del self._open[output.request_id]
        _post(answers.loop, answers.received.put_nowait, (index, output))

    def _end(self, failure: Exception) -> None:
        self.failure = failure
        for answers, _ in self._open.values():
            _post(answers.loop, answers.received.put_nowait, failure)
        self._open.clear()


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[Received], None], value: Received) -> None:
    """Have `loop` make a call; one that was closed by force has nobody left to tell."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, value)
