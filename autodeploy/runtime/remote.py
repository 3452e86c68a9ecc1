"""A core in a process of its own, so that text never keeps the device waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from autodeploy.runtime.link import Link
from autodeploy.runtime.messages import Add, Finish, NewRequest, Ready, StepOutput, Stepped
from autodeploy.runtime.stats import EngineStats

REQUESTS_A_MESSAGE = 64
"""The worker takes these in while the next ones are prepared here; a step of whole prompts holds fewer."""


class RemoteCore:
    """`autodeploy.runtime.protocol.Core` over a worker process, which has been told what to load.

    Waits until it is loaded. Raises InputError for what the worker cannot load, and EngineError when it fails or dies.
    """

    def __init__(self, link: Link) -> None:
        ready = link.receive()
        assert isinstance(ready, Ready)
        self.notes: Sequence[str] = ready.notes
        self.phases: Mapping[str, float] = ready.phases
        self.close = link.close
        """Stop the worker; it also happens when this object goes, or Python ends."""
        self._vocab_size, self._max_len, self._stats = ready.vocab_size, ready.max_len, ready.stats
        self._link = link
        self._open: Counter[str] = Counter()
        self._new: list[NewRequest] = []
        self._pending: list[Stepped] = []

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self._vocab_size

    @property
    def max_len(self) -> int:
        """The most tokens a sequence can have, prompt included."""
        return self._max_len

    @property
    def has_unfinished(self) -> bool:
        """Whether the worker will tell more."""
        return bool(self._open)

    def stats(self) -> EngineStats:
        """Gauges and counts, as of the last step that was told of."""
        while self._link.has_message:
            self._take()
        return self._stats

    def add(self, request: NewRequest) -> None:
        """Queue a request that fits. It travels with others, with the next step at the latest."""
        self._open[request.request_id] = request.params.n
        self._new.append(request)
        if len(self._new) == REQUESTS_A_MESSAGE:
            self._send_new()

    def finish(self, request_id: str, index: int | None = None) -> None:
        """End a sequence of a request, or all of them."""
        self._send_new()
        self._close_some(request_id, None if index is None else 1)
        self._link.send(Finish(request_id, index))

    def step(self) -> StepOutput:
        """Wait for the worker to tell of one step at least; everything that it has told."""
        self._send_new()
        if not self._pending:
            self._take()
        while self._link.has_message:
            self._take()
        told, self._pending = self._pending, []
        output = StepOutput([], [])
        for one in told:
            output.tokens += one.output.tokens
            output.prompt_rows += one.output.prompt_rows
        for tokens in output.tokens:
            if tokens.finish_reason is not None:
                self._close_some(tokens.request_id, 1)
        return output

    def _send_new(self) -> None:
        if self._new:
            self._link.send(Add(self._new))
            self._new = []

    def _close_some(self, request_id: str, num_sequences: int | None) -> None:
        """Forget sequences that will not be told of; all of a request with None."""
        self._open[request_id] -= self._open[request_id] if num_sequences is None else num_sequences
        if self._open[request_id] <= 0:
            del self._open[request_id]

    def _take(self) -> None:
        message = self._link.receive()
        assert isinstance(message, Stepped)
        self._stats = message.stats
        self._pending.append(message)
