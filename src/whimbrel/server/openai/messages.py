"""OpenAI's messages to the form that chat templates take: content as one text, roles that templates know."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whimbrel.server.errors import ApiError

Messages = Sequence[Mapping[str, Any]]

_TEXT_PARTS = ("text", "input_text", "output_text")
_FILE_PARTS = ("file", "input_file")
_ROLES = {"developer": "system", "function": "tool"}
_KNOWN_ROLES = ("system", "user", "assistant", "tool")


def for_template(
    messages: Messages, name: str = "messages", first: int = 0
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Messages for a chat template, and the ids of the documents that they bring along.

    ``name``: the field that they stand in, and ``first``: where; for what errors say.
    Raises ``ApiError`` 400 naming the message, for an unknown role or a part that is no text.
    """
    if not messages:
        raise ApiError(400, f"{name} is empty; give at least one message from the user", param=name)
    result = []
    files: list[str] = []
    for index, message in enumerate(messages, first):
        place = f"{name}[{index}]"
        role = _role(message, place)
        found = list(_files(message.get("content")))
        if found and role != "user":
            raise ApiError(400, f"{place}: a document belongs into a message of the user", param=place)
        files += found
        result.append({**message, "role": role, "content": _text(message.get("content"), place)})
    return result, tuple(dict.fromkeys(files))


def _role(message: Mapping[str, Any], place: str) -> str:
    role = message.get("role")
    role = _ROLES.get(str(role), role)
    if role not in _KNOWN_ROLES:
        raise ApiError(
            400, f"{place}: role is {role!r}; there are {', '.join((*_KNOWN_ROLES, *_ROLES))}", param=f"{place}.role"
        )
    return str(role)


def _text(content: Any, place: str) -> str:
    """The text of a content, which is a text itself, a list of parts, or nothing (beside tool calls)."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        raise ApiError(400, f"{place}: content is neither a text nor a list of parts", param=f"{place}.content")
    return "".join(text for number, part in enumerate(content) for text in _part(part, f"{place}.content[{number}]"))


def _part(part: Any, place: str) -> Iterator[str]:
    if isinstance(part, str):
        yield part
        return
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_PARTS:
        text = part.get("text")
        if not isinstance(text, str):
            raise ApiError(400, f"{place}: a part of type {kind} has no text", param=place)
        yield text
    elif kind == "refusal":
        yield str(part.get("refusal", ""))
    elif kind not in _FILE_PARTS:
        raise ApiError(
            400,
            f"{place}: parts of type {kind!r} can't be read here; there are text and file",
            param=place,
            code="unsupported",
        )


def _files(content: Any) -> Iterator[str]:
    """Ids of the documents among the parts of a content."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return
    for part in content:
        if isinstance(part, Mapping) and part.get("type") in _FILE_PARTS:
            inner = part.get("file") if isinstance(part.get("file"), Mapping) else part
            id = inner.get("file_id") if isinstance(inner, Mapping) else None
            if not isinstance(id, str) or not id:
                raise ApiError(
                    400,
                    "a document is given by its file_id; put it to POST /v1/files first",
                    param="file_id",
                    code="unsupported",
                )
            yield id
