"""The HTTP application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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


def create_app(engine: EngineLike, model_name: str) -> FastAPI:
    """Serve `engine` as the model `model_name`. The application starts the engine's thread, and ends it."""
    async_engine = AsyncEngine(engine)
    metrics = Metrics(engine.stats)
    created = int(time.time())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async_engine.start()
        yield
        await async_engine.stop()

    app = FastAPI(title="autodeploy", lifespan=lifespan, openapi_url=None)
    add_handlers(app)
    card = {"id": model_name, "object": "model", "created": created, "owned_by": "autodeploy"}
    card_with_len = {**card, "max_model_len": engine.max_len}

    def check_model(name: str) -> None:
        if name != model_name:
            raise UnknownModelError(f"the model {name!r} is not served here; {nearest(name, [model_name])}")

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [card_with_len]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        check_model(name)
        return card_with_len

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if async_engine.failure is None else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        check_model(body.model)
        turns = [message.for_template() for message in body.messages]

        def prompts(tokenizer: Tokenizer | None) -> list[Prompt]:
            return [chat_token_ids(tokenizer, turns, {"add_generation_prompt": True})]

        params = body.params()
        replies = Replies("chat", model_name, params.n, params.logprobs or 0)
        return await reply(async_engine, request, body, prompts, params, replies, Timer(metrics))

    @app.post("/v1/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        check_model(body.model)
        params = body.params()
        replies = Replies("text", model_name, params.n, params.logprobs or 0)
        given = body.prompts()
        return await reply(async_engine, request, body, lambda _: given, params, replies, Timer(metrics))

    return app
