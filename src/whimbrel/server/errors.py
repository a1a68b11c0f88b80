"""From exceptions to HTTP: status, OpenAI's error fields, and the shape that each dialect wants.

``ApiError`` is an error of the server's own; every ``WhimbrelError`` has its place in ``_STATUS``.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whimbrel.errors import (
    DoesNotFit,
    FormatError,
    InvalidParameter,
    MissingExtra,
    ModelNotFound,
    PromptTooLong,
    UnsupportedCapability,
    UnsupportedModel,
    UsageError,
    WhimbrelError,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 1
"""When to try again after 429 or 503: an answer's place is free within about that time."""


class Busy(WhimbrelError):
    """More answers wait than the server takes on."""


class Stopping(WhimbrelError):
    """The server is on its way out, or not there yet."""


class LoadFailed(WhimbrelError):
    """A model that is here can't be loaded as the server was told to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """An error as a client sees it."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """An answer that isn't 200, raised anywhere below a route."""

    def __init__(self, status: int, message: str, **fields: Any) -> None:
        """``fields`` are those of ``Problem``."""
        super().__init__(message)
        self.problem = Problem(status=status, message=message, **fields)


_NAMED = re.compile(r"[a-z_]+(?==)|[a-z_]+\[\d+\][\w.\[\]]*")

_STATUS: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (PromptTooLong, 400, "invalid_request_error", "context_length_exceeded"),
    (UsageError, 400, "invalid_request_error", None),
    (ModelNotFound, 404, "invalid_request_error", "model_not_found"),
    (UnsupportedCapability, 400, "invalid_request_error", "unsupported"),
    (UnsupportedModel, 400, "invalid_request_error", "unsupported_model"),
    (FormatError, 400, "invalid_request_error", "unreadable"),
    (MissingExtra, 501, "server_error", "missing_extra"),
    (Busy, 429, "rate_limit_error", "queue_full"),
    (Stopping, 503, "server_error", "unavailable"),
    (DoesNotFit, 503, "server_error", "does_not_fit"),
    (WhimbrelError, 500, "server_error", None),
)
"""First match wins; order as in the tree of ``whimbrel.errors``, children first."""


def problem_of(error: BaseException) -> Problem:
    """What a client is told about an exception. Of one that nobody foresaw only that it happened, not its text."""
    if isinstance(error, ApiError):
        return error.problem
    for kind, status, type_, code in _STATUS:
        if isinstance(error, kind):
            headers = {"Retry-After": str(RETRY_SECONDS)} if status in {429, 503} else {}
            param = _parameter(error)
            return Problem(status=status, message=str(error), type=type_, code=code, param=param, headers=headers)
    return Problem(status=500, message="this should not have happened; the server's log says more", type="server_error")


def _parameter(error: Exception) -> str | None:
    """The field that is wrong: messages of such errors begin with its name."""
    if not isinstance(error, InvalidParameter):
        return None
    found = _NAMED.match(str(error))
    return error.parameter or (found[0] if found else None)


def problem_in_stream(error: Exception) -> Problem:
    """The same where the status is sent already, so that only the body can say it, and nobody else logs it."""
    problem = problem_of(error)
    if problem.status == 500:
        log.error("an answer failed in the middle: %s", error, exc_info=error)
    return problem


def openai_body(problem: Problem) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}``."""
    fields = {"message": problem.message, "type": problem.type, "param": problem.param, "code": problem.code}
    return {"error": fields}
