"""Which shape an error has: OpenAI's, Anthropic's or Ollama's, by the path that was asked."""

from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import Scope

from whimbrel.server.errors import Problem, openai_body

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(path: str, problem: Problem) -> dict[str, Any]:
    """The JSON of an error as clients of that path expect it."""
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": _anthropic_type(problem), "message": problem.message}}
    if path.startswith("/api/"):
        return {"error": problem.message}
    return openai_body(problem)


def error_response(scope: Scope, problem: Problem) -> JSONResponse:
    """The answer to a request that failed."""
    return JSONResponse(error_body(scope["path"], problem), status_code=problem.status, headers=dict(problem.headers))


def _anthropic_type(problem: Problem) -> str:
    return _ANTHROPIC_TYPES.get(problem.status, "api_error")
