"""Envelope: the outermost layer. Every answer gets an id, a header that names ignored fields, a line in the log.

The log never holds a prompt, an answer, a query string or a key: method, path, status, milliseconds, and what a route
noted (model, tokens). Plain ASGI, so that streams pass through untouched.
"""

import asyncio
import logging
import re
import uuid
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from whimbrel.server.dialect import error_response
from whimbrel.server.errors import Stopping, problem_of
from whimbrel.server.fields import IGNORED_HEADER, ignored_header
from whimbrel.server.metrics import Metrics

log = logging.getLogger("whimbrel.server.access")

_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Envelope:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wraps ``app``; requests are counted in ``metrics``."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, id, method = perf_counter(), 0, _request_id(scope), scope["method"]
        if (
            method == "HEAD"
        ):  # routes know GET; whoever sends the answer has a scope of its own, and leaves the body out
            scope = {**scope, "method": "GET"}
        scope["whimbrel.request_id"] = id

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (b"x-request-id", id.encode())]
                if ignored := ignored_header(scope):
                    headers.append((IGNORED_HEADER.lower().encode(), ignored.encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            # The server stops and waits no longer. Whoever has heard nothing yet is told so; nobody above wants to know.
            if not status:
                problem = problem_of(Stopping("the server was stopped before it could answer; ask again"))
                await error_response(scope, problem)(scope, receive, send_with_headers)
        except Exception as error:  # nobody foresaw it: the log gets the traceback, the client a 500
            log.exception("a request failed", extra={"fields": {"request": id}})
            if not status:
                await error_response(scope, problem_of(error))(scope, receive, send_with_headers)
        finally:
            self._note(scope, method, status, perf_counter() - started, id)

    def _note(self, scope: Scope, method: str, status: int, seconds: float, id: str) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "unknown")  # the pattern: names of files and models don't become labels
        self._metrics.requests.labels(path, str(status)).inc()
        noted: dict[str, Any] = scope.get("whimbrel.log", {})
        fields = {
            "request": id,
            "method": method,
            "path": path,
            "status": status,
            "ms": round(seconds * 1e3, 1),
        }
        log.info("request", extra={"fields": {**fields, **noted}})


def note(scope: Scope, **fields: Any) -> None:
    """Add fields to the log line of a request: names and numbers only, never text of a prompt or an answer."""
    scope.setdefault("whimbrel.log", {}).update(fields)


def _request_id(scope: Scope) -> str:
    """The client's own id where it is harmless, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value.decode())
    return f"req-{uuid.uuid4().hex[:24]}"
