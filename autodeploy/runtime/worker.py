"""The loop of a process that runs a core for another one."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import zmq

from autodeploy.errors import InputError
from autodeploy.runtime.messages import (
    Add,
    Failed,
    Finish,
    FromWorker,
    Ready,
    Start,
    StepOutput,
    Stepped,
    Stop,
    ToWorker,
    decode_to_worker,
    encode,
)
from autodeploy.runtime.protocol import Core

IDLE_MS = 500  # how often an idle worker looks whether its parent still lives

Load = Callable[[Start], Core]


class Worker:
    """Obeys the messages at a ZeroMQ address until it is told to stop, or its parent has gone."""

    def __init__(self, address: str, load: Load) -> None:
        self._load = load
        self._parent = os.getppid()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.RCVTIMEO, IDLE_MS)
        self._socket.connect(address)

    def run(self) -> int:
        """Serve; the exit code of the process."""
        try:
            self._serve()
        except Exception as error:  # whatever happened here, the other side must hear of it
            named = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            self._send(Failed(named, isinstance(error, InputError)))
            return 1
        finally:
            self._socket.close(linger=1000)
            self._context.term()
        return 0

    def _serve(self) -> None:
        start = self._receive(wait=True)
        if not isinstance(start, Start):
            return
        gc.disable()  # while much is made and little becomes garbage
        core = self._load(start)
        gc.enable()
        gc.collect()
        gc.freeze()  # what was loaded stays: looking through it again would hold up steps
        self._send(Ready(core.vocab_size, core.max_len, core.stats(), list(core.notes), dict(core.phases)))
        while True:
            message = self._receive(wait=not core.has_unfinished)
            if isinstance(message, Stop):
                return
            if isinstance(message, Add):
                for request in message.requests:
                    core.add(request)
            elif isinstance(message, Finish):
                core.finish(message.request_id, message.index)
                self._send(Stepped(StepOutput(), core.stats()))
            else:
                output = core.step()
                if output.tokens or output.prompt_rows:
                    self._send(Stepped(output, core.stats()))

    def _receive(self, *, wait: bool) -> ToWorker | None:
        """The next message, if there is one; with `wait`, there will be. A parent that has gone says stop."""
        while True:
            try:
                return decode_to_worker(self._socket.recv(0 if wait else zmq.NOBLOCK))
            except zmq.Again:
                if not wait:
                    return None
                if os.getppid() != self._parent:
                    return Stop()

    def _send(self, message: FromWorker) -> None:
        self._socket.send(encode(message))
