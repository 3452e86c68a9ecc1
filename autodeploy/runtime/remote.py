"""A core in a process of its own, so that text never keeps the device waiting."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Sequence
from tempfile import TemporaryDirectory

import zmq

from autodeploy.errors import EngineError, InputError
from autodeploy.runtime.messages import (
    Add,
    Failed,
    Finish,
    FromWorker,
    NewRequest,
    Ready,
    Start,
    StepOutput,
    Stepped,
    Stop,
    ToWorker,
    decode_from_worker,
    encode,
)
from autodeploy.runtime.stats import EngineStats

POLL_MS = 200  # how often a wait looks whether the worker still lives
STOP_SECONDS = 5.0


class RemoteCore:
    """`autodeploy.runtime.core.Core` over a worker process, which `command` and an address start.

    Raises InputError for what the worker cannot load, and EngineError when it fails or dies. It ends with this object.
    """

    def __init__(self, command: Sequence[str], start: Start) -> None:
        folder = TemporaryDirectory(prefix="autodeploy-")  # readable by this user alone, and so is the socket in it
        address = f"ipc://{folder.name}/core"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.bind(address)
        self._process = subprocess.Popen([*command, address], stdin=subprocess.DEVNULL)
        self.close = weakref.finalize(self, _end, self._process, self._socket, self._context, folder)
        """Stop the worker; it also happens when this object goes, or Python ends."""
        self._open: Counter[str] = Counter()
        self._pending: list[Stepped] = []
        self._send(start)
        ready = self._receive()
        assert isinstance(ready, Ready)
        self.notes: Sequence[str] = ready.notes
        self._vocab_size, self._max_len, self._stats = ready.vocab_size, ready.max_len, ready.stats

    @classmethod
    def start(cls, start: Start) -> RemoteCore:
        """A worker over an artifact."""
        return cls([sys.executable, "-m", "autodeploy.worker"], start)

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
        while self._socket.poll(0):
            self._take()
        return self._stats

    def add(self, request: NewRequest) -> None:
        """Queue a request that fits."""
        self._open[request.request_id] = request.params.n
        self._send(Add(request))

    def finish(self, request_id: str, index: int | None = None) -> None:
        """End a sequence of a request, or all of them."""
        self._close_some(request_id, None if index is None else 1)
        self._send(Finish(request_id, index))

    def step(self) -> StepOutput:
        """Wait for the worker to tell of one step at least; everything that it has told."""
        if not self._pending:
            self._take()
        while self._socket.poll(0):
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

    def _close_some(self, request_id: str, num_sequences: int | None) -> None:
        """Forget sequences that will not be told of; all of a request with None."""
        self._open[request_id] -= self._open[request_id] if num_sequences is None else num_sequences
        if self._open[request_id] <= 0:
            del self._open[request_id]

    def _take(self) -> None:
        message = self._receive()
        assert isinstance(message, Stepped)
        self._stats = message.stats
        self._pending.append(message)

    def _send(self, message: ToWorker) -> None:
        self._socket.send(encode(message))

    def _receive(self) -> FromWorker:
        while not self._socket.poll(POLL_MS):
            code = self._process.poll()
            if code is not None and not self._socket.poll(0):
                raise EngineError(f"the engine's process has ended with exit code {code}")
        message = decode_from_worker(self._socket.recv())
        if isinstance(message, Failed):
            raise InputError(message.sentence) if message.is_bad_input else EngineError(message.sentence)
        return message


def _end(
    process: subprocess.Popen[bytes],
    socket: zmq.Socket[bytes],
    context: zmq.Context[zmq.Socket[bytes]],
    folder: TemporaryDirectory[str],
) -> None:
    if process.poll() is None:
        socket.send(encode(Stop()))
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    socket.close(linger=0)
    context.term()
    folder.cleanup()
