"""The wire to a worker process."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryDirectory

import zmq

from autodeploy.errors import EngineError, InputError
from autodeploy.runtime.messages import Failed, FromWorker, Start, Stop, ToWorker, decode_from_worker, encode

POLL_MS = 200  # how often a wait looks whether the worker still lives
STOP_SECONDS = 5.0


class Link:
    """Starts a worker process by `command` and an address, and talks with it. The worker ends with this object.

    Nothing here waits for the worker to load, so that both sides can get ready side by side.
    """

    def __init__(self, command: Sequence[str]) -> None:
        folder = TemporaryDirectory(prefix="autodeploy-")  # readable by this user alone, and so is the socket in it
        address = f"ipc://{folder.name}/core"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.RCVTIMEO, POLL_MS)
        self._socket.bind(address)
        self.process = subprocess.Popen([*command, address], stdin=subprocess.DEVNULL)
        self.close = weakref.finalize(self, _end, self.process, self._socket, self._context, folder)
        """Stop the worker; it also happens when this object goes, or Python ends."""

    @classmethod
    def start(cls, start: Start) -> Link:
        """A worker that begins to load an artifact."""
        link = cls([sys.executable, "-m", "autodeploy.worker"])
        link.send(start)
        return link

    @property
    def has_message(self) -> bool:
        """Whether `receive` would not wait."""
        return bool(self._socket.poll(0))

    def send(self, message: ToWorker) -> None:
        """Send a message; the worker may take it later."""
        self._socket.send(encode(message))

    def receive(self) -> FromWorker:
        """Wait for a message. Raises InputError for what the worker cannot load, EngineError when it fails or dies."""
        message = decode_from_worker(self._next())
        if isinstance(message, Failed):
            raise InputError(message.sentence) if message.is_bad_input else EngineError(message.sentence)
        return message

    def _next(self) -> bytes:
        while True:
            try:
                return self._socket.recv()
            except zmq.Again:
                code = self.process.poll()
                if code is not None and not self.has_message:
                    raise EngineError(f"the engine's process has ended with exit code {code}") from None


def _end(
    process: subprocess.Popen[bytes],
    socket: zmq.Socket[bytes],
    context: zmq.Context[zmq.Socket[bytes]],
    folder: TemporaryDirectory[str],
) -> None:
    if process.poll() is None:
        with suppress(zmq.Again):  # it has hung up, and is about to end
            socket.send(encode(Stop()), zmq.NOBLOCK)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    socket.close(linger=0)
    context.term()
    folder.cleanup()
