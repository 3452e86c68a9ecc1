"""Listening, and ending well."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from autodeploy.runtime.server.app import create_app
from autodeploy.runtime.server.async_engine import EngineLike

GRACE_SECONDS = 10  # for answers under way when the server is told to stop


def listen(host: str, port: int) -> socket.socket:
    """Open the port, so that a taken one is known before a model is loaded; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


def run(engine: EngineLike, model_name: str, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; answers under way may end first, and a second signal cuts them off."""
    asyncio.run(_run(engine, model_name, listening))


async def _run(engine: EngineLike, model_name: str, listening: socket.socket) -> None:
    config = uvicorn.Config(
        create_app(engine, model_name), log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, server.stop)
    await server.serve(sockets=[listening])


class _Server(uvicorn.Server):
    """A server whose signals are handled here: uvicorn would raise them again after it has ended well."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
