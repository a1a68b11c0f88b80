"""``response_format``: OpenAI's forms of it, and the further ones that constrained decoding offers."""

from collections.abc import Mapping
from typing import Any

from whimbrel.backends.shape import JsonObject, JsonSchema, Lark, OneOf, Regex, Shape, Sql
from whimbrel.errors import InvalidParameter
from whimbrel.server.errors import ApiError


def shape_of(format: Mapping[str, Any] | None, field: str = "response_format") -> Shape | None:
    """The shape of an answer; None for plain text. ``field``: where it stands, for what errors say.

    Raises ``ApiError`` 400 for an unknown type or a missing part.
    """
    try:
        return _shape_of(format, field)
    except InvalidParameter as error:
        raise ApiError(400, str(error), param=field) from None


def _shape_of(format: Mapping[str, Any] | None, field: str) -> Shape | None:
    kind = None if format is None else format.get("type")
    match kind:
        case None if format is None:
            return None
        case "text":
            return None
        case "json_object":
            return JsonObject()
        case "json_schema":
            return _schema(format, field)
        case "regex":
            return Regex(_part(format, "pattern", str, field))
        case "lark":
            return Lark(_part(format, "grammar", str, field))
        case "choice":
            return OneOf(tuple(str(choice) for choice in _part(format, "choices", list, field)))
        case "sql":
            return Sql()
    known = "text, json_object, json_schema, regex, lark, choice, sql"
    raise ApiError(400, f"{field}.type is {kind!r}; there are {known}", param=f"{field}.type")


def _schema(format: Mapping[str, Any] | None, field: str) -> JsonSchema:
    """The Responses API has the fields of ``json_schema`` beside ``type``."""
    inner = (format or {}).get("json_schema", format)
    place = f"{field}.json_schema" if inner is not format else field
    if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
        raise ApiError(400, f"{place} has no schema", param=f"{place}.schema")
    return JsonSchema(inner["schema"], strict=bool(inner.get("strict", True)))


def _part(format: Mapping[str, Any] | None, name: str, kind: type, field: str) -> Any:
    value = (format or {}).get(name)
    if not isinstance(value, kind):
        raise ApiError(400, f"{field} has no {name}", param=f"{field}.{name}")
    return value
