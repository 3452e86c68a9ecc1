"""The HTTP application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from autodeploy.errors import nearest
from autodeploy.runtime.llm import chat_token_ids
from autodeploy.runtime.prompts import Prompt
from autodeploy.runtime.server.answer import reply
from autodeploy.runtime.server.async_engine import AsyncEngine, EngineLike
from autodeploy.runtime.server.errors import UnknownModelError, add_handlers
from autodeploy.runtime.server.metrics import Metrics, Timer
from autodeploy.runtime.server.replies import Replies
from autodeploy.runtime.server.schema import ChatRequest, CompletionRequest
from autodeploy.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Served:
    """The one model of a server."""

    name: str
    max_len: int
    created: int

    @property
    def card(self) -> dict[str, Any]:
        """What the API says of it."""
        card = {"id": self.name, "object": "model", "created": self.created, "owned_by": "autodeploy"}
        return {**card, "max_model_len": self.max_len}

    def check(self, name: str) -> None:
        """Raise UnknownModelError unless `name` is its name."""
        if name != self.name:
            raise UnknownModelError(f"the model {name!r} is not served here; {nearest(name, [self.name])}")


def create_app(engine: EngineLike, model_name: str) -> FastAPI:
    """Serve `engine` as the model `model_name`. The application starts the engine's thread, and ends it."""
    async_engine = AsyncEngine(engine)
    metrics = Metrics(engine.stats)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async_engine.start()
        yield
        await async_engine.stop()

    app = FastAPI(title="autodeploy", lifespan=lifespan, openapi_url=None)
    add_handlers(app)
    served = Served(model_name, engine.max_len, int(time.time()))
    _add_models(app, served)
    _add_state(app, async_engine, metrics)
    _add_completions(app, served, async_engine, metrics)
    return app


def _add_models(app: FastAPI, served: Served) -> None:
    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [served.card]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        served.check(name)
        return served.card


def _add_state(app: FastAPI, engine: AsyncEngine, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if engine.failure is None else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_completions(app: FastAPI, served: Served, engine: AsyncEngine, metrics: Metrics) -> None:
    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        served.check(body.model)
        turns = [message.for_template() for message in body.messages]

        def prompts(tokenizer: Tokenizer | None) -> list[Prompt]:
            return [chat_token_ids(tokenizer, turns, {"add_generation_prompt": True})]

        params = body.params()
        replies = Replies("chat", served.name, params.n, params.logprobs or 0)
        return await reply(engine, request, body, prompts, params, replies, Timer(metrics))

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        served.check(body.model)
        params = body.params()
        replies = Replies("text", served.name, params.n, params.logprobs or 0)
        given = body.prompts()
        return await reply(engine, request, body, lambda _: given, params, replies, Timer(metrics))
