from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn
from openai import OpenAI

from autodeploy.runtime.engine import Engine
from autodeploy.runtime.server import create_app, listen

NAME = "tiny"
Serve = Callable[[Engine], str]


@contextmanager
def serving(engine: Engine) -> Iterator[str]:
    """Serve `engine` on a free port while the block runs; gives the address."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(engine, NAME), log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda engine: stack.enter_context(serving(engine))


@pytest.fixture
def client_of(serve: Serve) -> Iterator[Callable[[Engine], OpenAI]]:
    with ExitStack() as stack:

        def connect(engine: Engine) -> OpenAI:
            return stack.enter_context(
                OpenAI(base_url=f"{serve(engine)}/v1", api_key="none", max_retries=0, timeout=20)
            )

        yield connect


@pytest.fixture
def http_of(serve: Serve) -> Iterator[Callable[[Engine], httpx.Client]]:
    with ExitStack() as stack:
        yield lambda engine: stack.enter_context(httpx.Client(base_url=serve(engine), timeout=20))
