"""Errors in the form of OpenAI's API."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from autodeploy.errors import InputError, nearest
from autodeploy.runtime.server.async_engine import EngineStoppedError
from autodeploy.runtime.server.schema import ChatRequest, CompletionRequest


class UnknownModelError(InputError):
    """A model that this server does not have."""


def error_body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The JSON object of an error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def add_handlers(app: FastAPI) -> None:
    """Make `app` answer every error in this form."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UnknownModelError, _unknown_model)
    app.add_exception_handler(InputError, _refused)
    app.add_exception_handler(EngineStoppedError, _stopped)
    app.add_exception_handler(HTTPException, _http)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body(str(error), 400), 400)


async def _unknown_model(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body(str(error), 404, param="model", code="model_not_found"), 404)


async def _stopped(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_body(str(error), 503), 503)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(error_body(message, error.status_code), error.status_code, headers=error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    path = [str(part) for part in problem["loc"] if part != "body"]
    field = ".".join(path)
    if problem["type"] == "extra_forbidden":
        body = ChatRequest if request.url.path.endswith("/chat/completions") else CompletionRequest
        hint = f"; {nearest(field, body.model_fields)}" if len(path) == 1 else ""
        message = f"{field!r} is not a field that this server knows{hint}"
    else:
        message = f"{field or 'the body'}: {problem['msg']}"
    return JSONResponse(error_body(message, 400, param=field or None), 400)
