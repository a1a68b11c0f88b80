"""What the OpenAPI document says of answers that routes share: errors, and streams."""

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]


class ErrorFields(BaseModel):
    """OpenAI's fields of an error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    """What goes wrong is told in this shape."""

    error: ErrorFields


class AnthropicErrorFields(BaseModel):
    """Anthropic's fields of an error."""

    type: str
    message: str


class AnthropicError(BaseModel):
    """What goes wrong under ``/v1/messages``."""

    type: Literal["error"]
    error: AnthropicErrorFields


class OllamaError(BaseModel):
    """What goes wrong under ``/api/``."""

    error: str


_MEANINGS = {
    400: "The request is wrong; the message says what would be right",
    401: "A key is wanted",
    403: "A page of another site, or a name that this server doesn't have",
    404: "No such model, file or path",
    409: "A document that is still being read, or that an answer reads",
    408: "The request's body stopped coming",
    413: "The request is too large",
    422: "Never sent: what doesn't fit is a 400",
    429: "Too many answers wait; Retry-After says when to come again",
    499: "The client went away",
    500: "A fault of the server",
    507: "No room on the disk for a document",
    503: "Loading, stopping, or no memory for this model",
}


def errors_as(model: type[BaseModel]) -> Responses:
    """The errors that any route can answer with, in that shape."""
    return {
        status: {"description": text, "model": model} for status, text in _MEANINGS.items() if status not in {422, 499}
    }


ERRORS = errors_as(Error)
ANTHROPIC_ERRORS = errors_as(AnthropicError)
OLLAMA_ERRORS = errors_as(OllamaError)
STREAM: Responses = {
    200: {"description": "The answer; with stream=true as server-sent events", "content": {"text/event-stream": {}}}
}
LINES: Responses = {
    200: {"description": "The answer; unless stream=false as JSON lines", "content": {"application/x-ndjson": {}}}
}


class Application(FastAPI):
    """FastAPI whose document leaves out what it adds by itself: 422, which is never sent here."""

    def openapi(self) -> dict[str, Any]:
        """The document."""
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document
