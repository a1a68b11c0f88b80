"""The application: middleware around routes, and one handler for everything that goes wrong."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from whimbrel import __version__
from whimbrel.server import ollama, static, status, text
from whimbrel.server.anthropic import messages
from whimbrel.server.dialect import error_response
from whimbrel.server.documented import Application
from whimbrel.server.envelope import Envelope
from whimbrel.server.errors import Problem, problem_of
from whimbrel.server.fields import IGNORED_HEADER
from whimbrel.server.guard import Guard
from whimbrel.server.openai import chat, completions, embeddings, files, models, responses
from whimbrel.server.openai.response_store import ResponseStore
from whimbrel.server.pool import Load
from whimbrel.server.service import Service
from whimbrel.server.settings import ServerSettings
from whimbrel.server.sse import ClientGone

log = logging.getLogger(__name__)

ROUTES = (chat, completions, responses, messages, embeddings, files, models, ollama, text, status, static)
"""Each has a ``router``."""


def create_app(settings: ServerSettings, load: Load | None = None) -> FastAPI:
    """The server as an ASGI application. ``load``: see ``Service``."""
    service = Service(settings, load)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = Application(title="whimbrel", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.state.responses = ResponseStore()
    for module in ROUTES:
        app.include_router(module.router)
    for kind in (RequestValidationError, StarletteHTTPException, *_expected()):
        app.add_exception_handler(kind, _on_error)
    app.add_middleware(Guard, settings=settings)
    if settings.cors_origins:
        app.add_middleware(  # around the guard: a preflight carries no key, and pages shall be able to read a refusal
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", IGNORED_HEADER, "Retry-After"],
            max_age=600,
        )
    app.add_middleware(Envelope, metrics=service.metrics)
    return app


def _expected() -> tuple[type[Exception], ...]:
    """Errors that Starlette shall answer where they are raised, without a traceback in the log."""
    from whimbrel.errors import WhimbrelError
    from whimbrel.server.errors import ApiError

    return (WhimbrelError, ApiError, ClientGone)


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientGone):
        return Response(status_code=499)  # nobody sees it; the log does
    problem = _problem(error)
    if problem.status >= 500:
        log.error("%r: %s", request.url.path, error, exc_info=error if problem.status == 500 else None)
    response: JSONResponse = error_response(request.scope, problem)
    return response


def _problem(error: Exception) -> Problem:
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors())
    if isinstance(error, (HTTPException, StarletteHTTPException)):
        detail = (
            error.detail if error.status_code != 404 or error.detail != "Not Found" else "there is no such path here"
        )
        type_ = "invalid_request_error" if error.status_code < 500 else "server_error"
        return Problem(status=error.status_code, message=str(detail), type=type_, headers=dict(error.headers or {}))
    return problem_of(error)


def _invalid(errors: Any) -> Problem:
    """The first thing that is wrong with a request's JSON, by its place in it."""
    first = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return Problem(status=400, message=f"the request is no JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    message = f"{place}: {first['msg']}" if place else first["msg"]
    return Problem(status=400, message=message, param=place or None)
