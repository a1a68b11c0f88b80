"""What Ollama's requests have in common: a model that stays in memory for a while, options, a shape, streams by default.

Options that say how a model is loaded (``num_ctx`` and the like) have no effect on one that is: they are named.
"""

import re
from collections.abc import Callable, Coroutine, Iterator
from math import inf, isfinite, isnan
from typing import Any, ClassVar, NoReturn

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError

from whimbrel.backends.shape import JsonObject, JsonSchema
from whimbrel.server.errors import ApiError
from whimbrel.server.fields import Body
from whimbrel.server.openai.sampling import checked_stops

_NUMBERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_WHOLE = {"top_k": "top_k", "seed": "seed", "num_predict": "max_tokens"}

_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class AnyTypeIsJson(APIRoute):
    """Reads a body as JSON whatever its type: Ollama's own examples are ``curl -d``, which calls it a form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The usual one behind a changed header."""
        usual = super().get_route_handler()

        async def handler(request: Request) -> Response:
            kept = [header for header in request.scope["headers"] if header[0] != b"content-type"]
            request.scope["headers"] = [*kept, (b"content-type", b"application/json")]
            return await usual(Request(request.scope, request.receive))

        return handler


class Part(BaseModel):
    """A part of the request; what else is in it is looked at by who uses it."""

    model_config = ConfigDict(extra="allow", strict=True)


class ModelBody(Body):
    """Which model, and for how long it stays."""

    model: str | None = None
    keep_alive: float | str | None = None
    options: dict[str, Any] | None = None

    @field_validator("keep_alive")
    @classmethod
    def _in_seconds(cls, given: float | str | None) -> float | None:
        """Here, so that nothing is begun for a request that turns out wrong at its end."""
        if given is None:
            return None
        seconds = _seconds(given) if isinstance(given, str) else given
        if isnan(seconds):
            _refuse_duration()
        return inf if seconds < 0 else seconds

    @property
    def keep_seconds(self) -> float | None:
        """Seconds that the model stays in memory after this request; infinite below 0, None where nothing was said."""
        assert not isinstance(self.keep_alive, str)
        return self.keep_alive


class AnswerBody(ModelBody):
    """What chat and generate have in common."""

    no_effect: ClassVar[frozenset[str]] = frozenset()

    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    truncate: bool | None = None

    def answer_options(self) -> dict[str, Any]:
        """Options of ``LLM.stream``. Raises ``ApiError`` 400."""
        options = {**_sampling(self.options or {}), **_shape(self.format)}
        if self.think is not None:
            options["template"] = {"enable_thinking": bool(self.think)}
        if self.logprobs:
            options["logprobs"] = self.top_logprobs or 0
        if self.truncate:
            options["overflow"] = "truncate"
        return options

    def unsupported(self, context: int) -> Iterator[str]:
        """Known fields, and options, that ask for something that isn't there. ``context``: of the model as it is."""
        for name, value in (self.options or {}).items():
            if value is not None and name not in {*_NUMBERS, *_WHOLE, "stop"} and (name, value) != ("num_ctx", context):
                yield f"options.{name}"
        if isinstance(self.think, str):
            yield "think"  # templates know no degrees of it
        if self.top_logprobs and not self.logprobs:
            yield "top_logprobs"


def _sampling(given: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in _NUMBERS:
            options[_NUMBERS[name]] = _number(name, value)
        elif name in _WHOLE:
            number = _number(name, value)
            if number != int(number):
                raise ApiError(
                    400, f"options.{name} is {value!r}; a whole number was expected", param=f"options.{name}"
                )
            if number >= 0:  # below 0: no limit, a seed of the day
                options[_WHOLE[name]] = int(number)
        elif name == "stop":
            options["stop"] = _stops(value)
    return options


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ApiError(400, f"options.{name} is {value!r}; a number was expected", param=f"options.{name}")
    return value


def _stops(value: Any) -> str | list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ApiError(400, "options.stop is a text, or a list of texts", param="options.stop")
    return checked_stops(stops, "options.stop")


def _shape(format: str | dict[str, Any] | None) -> dict[str, Any]:
    if format in (None, ""):
        return {}
    if isinstance(format, dict):
        return {"shape": JsonSchema(format)}
    if format != "json":
        raise ApiError(400, f'format is {format!r}; there are "json", and JSON schemas', param="format")
    return {"shape": JsonObject()}


def _seconds(text: str) -> float:
    """Go's notation of a duration, "5m" or "1h30m", or a number of seconds."""
    sign, unsigned = (-1, text[1:]) if text.startswith("-") else (1, text)
    try:
        return sign * float(unsigned)
    except ValueError:
        parts = _DURATION.findall(unsigned)
    if not parts or "".join(number + unit for number, unit in parts) != unsigned:
        _refuse_duration()
    return sign * sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _refuse_duration() -> NoReturn:
    raise PydanticCustomError("duration", 'give seconds, or a duration such as "5m" or "1h30m"')
