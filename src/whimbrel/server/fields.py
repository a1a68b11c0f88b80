"""Body: a request's JSON, of which every field is either used or named to the client.

Strict (``--strict``, or the header ``X-Whimbrel-Strict: true``): a field that is unknown or not supported is refused.
Otherwise ``X-Ignored-Params`` names it. Never is one dropped quietly.
"""

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from whimbrel.server.errors import ApiError

STRICT_HEADER = "x-whimbrel-strict"
IGNORED_HEADER = "X-Ignored-Params"


class Body(BaseModel):
    """Base of all request bodies."""

    model_config = ConfigDict(extra="allow", strict=True)

    no_effect: ClassVar[frozenset[str]] = frozenset()
    """fields that ask nothing of the answer (who asks, how it is billed): taken and forgotten"""

    @model_validator(mode="before")
    @classmethod
    def _whole_characters(cls, data: Any) -> Any:
        """JSON can write half a surrogate pair (``"\\ud800"``), which no tokenizer, log or answer can encode."""
        try:
            json.dumps(data, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise PydanticCustomError(
                "half_character", "a text has half of a surrogate pair, which is no text"
            ) from None
        except RecursionError:
            raise PydanticCustomError("too_deep", "the JSON is nested too deeply") from None
        return data

    def leftovers(self) -> Iterator[str]:
        """Names of fields that are set and that nothing here acts on. Fields of value None are not set."""
        for name, value in (self.__pydantic_extra__ or {}).items():
            if value is not None and name not in self.no_effect:
                yield name

    def settle(self, request: Request, *more: str) -> None:
        """Name the leftovers, and ``more`` that a route found, in the answer's header.

        Raises ``ApiError`` 400 with the first of them where the server or the request is strict.
        """
        names = [*self.leftovers(), *more]
        if not names:
            return
        if request.app.state.service.settings.strict or request.headers.get(STRICT_HEADER, "").lower() == "true":
            listed = ", ".join(names)
            raise ApiError(
                400,
                f"not supported here: {listed}; leave it out, or ask without strict mode",
                param=names[0],
                code="unsupported",
            )
        note_ignored(request, names)


def note_ignored(request: Request, names: list[str]) -> None:
    """Add names to the header of what was not acted on."""
    ignored: list[str] = request.scope.setdefault("whimbrel.ignored", [])
    ignored += [name for name in names if name not in ignored]


def ignored_header(scope: Any) -> str | None:
    """The header's value, printable ASCII; None where nothing was ignored."""
    names: list[str] = scope.get("whimbrel.ignored", [])
    shown = ", ".join(names[:32])
    return "".join(char if " " <= char <= "~" else "?" for char in shown)[:1024] or None
