"""Answering one HTTP request, streamed or not, for as long as the client is there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from autodeploy.runtime.outputs import RequestOutput
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.server.async_engine import Answers, AsyncEngine, EngineStoppedError, PromptMaker
from autodeploy.runtime.server.errors import error_body
from autodeploy.runtime.server.metrics import Timer
from autodeploy.runtime.server.replies import Replies, Usage
from autodeploy.runtime.server.schema import SamplingBody

CLIENT_LEFT = 499  # as web servers log it; nobody receives it


async def reply(
    engine: AsyncEngine,
    request: Request,
    body: SamplingBody,
    make_prompts: PromptMaker,
    params: SamplingParams,
    replies: Replies,
    timer: Timer,
) -> Response:
    """Have the engine answer, and send that as `body` asks."""
    answers = await engine.submit(make_prompts, params, stream=body.stream)
    if body.stream:
        return EventStream(_events(answers, replies, timer, body.includes_usage), answers, timer)
    work = asyncio.create_task(_whole(answers, replies))
    leaving = asyncio.create_task(_client_leaves(request))
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            timer.cut()
            return Response(status_code=CLIENT_LEFT)
        whole = JSONResponse(work.result())
        timer.done()
        return whole
    finally:
        work.cancel()
        leaving.cancel()
        answers.abort()


class EventStream(StreamingResponse):
    """A stream of server-sent events that aborts its request however it ends, even before it began."""

    def __init__(self, events: AsyncIterator[str], answers: Answers, timer: Timer) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._answers = answers
        self._timer = timer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._answers.num_open:
                self._timer.cut()
            self._answers.abort()


async def _events(answers: Answers, replies: Replies, timer: Timer, include_usage: bool) -> AsyncIterator[str]:
    usage = Usage()
    # A client that asked for usage finds a null in every chunk before the last.
    more = {"usage": None} if include_usage else {}
    if replies.kind == "chat":
        yield _event({**replies.opening(), **more})
    try:
        async for index, output in answers:
            timer.output()
            usage.count(index, output)
            yield _event({**replies.chunk(index, output), **more})
    except EngineStoppedError as error:  # the status line has gone out, so the error comes as an event
        yield _event(error_body(str(error), 503))
        return
    if include_usage:
        yield _event(replies.closing(usage))
    yield "data: [DONE]\n\n"
    timer.done()


async def _whole(answers: Answers, replies: Replies) -> dict[str, Any]:
    usage = Usage()
    outputs: dict[int, RequestOutput] = {}
    async for index, output in answers:
        outputs[index] = output
        usage.count(index, output)
    return replies.whole([outputs[index] for index in sorted(outputs)], usage)


async def _client_leaves(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
