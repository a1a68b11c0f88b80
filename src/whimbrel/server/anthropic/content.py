"""Anthropic's turns, which consist of blocks, to messages as chat templates take them, and an answer's blocks back.

A user's turn may hold results of tools, which are messages of their own for templates; turns of the same speaker that
follow each other are one. Marks for a cache (``cache_control``) are taken and forgotten: here the cache finds its own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from whimbrel.server import calls
from whimbrel.server.blocks import Block
from whimbrel.server.errors import ApiError
from whimbrel.server.openai.messages import for_template

Turn = Mapping[str, Any]
Messages = list[dict[str, Any]]

BETWEEN_BLOCKS = "\n\n"
"""Between the texts of one turn of the user: each is a paragraph, with no space of its own at its ends."""

ROLES = ("user", "assistant", "system")


def messages_of(system: str | Sequence[Any] | None, turns: Sequence[Turn]) -> tuple[Messages, tuple[str, ...]]:
    """Messages, and the ids of the documents that they bring along. Raises ``ApiError`` 400 naming the block."""
    if not turns:
        raise ApiError(400, "messages is empty; give at least one from the user", param="messages")
    if turns[-1].get("role") == "assistant":
        raise ApiError(
            400,
            "the last message is the assistant's; going on with its text is not supported, end with the user's",
            param="messages",
            code="unsupported",
        )
    reader = _Reader()
    if system:
        reader.add("system", _text(system, "system"))
    for index, turn in enumerate(turns):
        reader.turn(turn, f"messages[{index}]")
    return for_template(reader.messages)


class _Reader:
    """Messages while they are put together."""

    def __init__(self) -> None:
        self.messages: Messages = []
        self._tools: dict[str, str] = {}

    def turn(self, turn: Turn, place: str) -> None:
        """One of Anthropic's messages."""
        role, content = turn.get("role"), turn.get("content")
        if role not in ROLES:
            raise ApiError(400, f"{place}: role is {role!r}; there are {', '.join(ROLES)}", param=f"{place}.role")
        for block, where in _blocks(content, f"{place}.content"):
            match role, block.get("type"):
                case ("assistant", "thinking"):
                    self._part("reasoning_content", _string(block, "thinking", where))
                case ("assistant", "redacted_thinking"):
                    pass  # written by a model elsewhere, for its own eyes
                case ("assistant", "tool_use"):
                    self._call(block, where)
                case ("user", "tool_result"):
                    self._result(block, where)
                case ("user", "document"):
                    self.add("user", *_document(block, where))
                case (_, "text"):
                    self.add(role, _string(block, "text", where))
                case (_, other):
                    raise _unreadable(other, where)

    def add(self, role: str, *contents: str | dict[str, Any]) -> None:
        """Texts and parts, to the turn that is open if it is the same speaker's."""
        last = self.messages[-1] if self.messages else {}
        if last.get("role") != role or "tool_calls" in last:
            last = {"role": role, "content": []}
            self.messages.append(last)
        for content in contents:
            if isinstance(content, str):
                between = BETWEEN_BLOCKS if last["content"] and role != "assistant" else ""
                content = {"type": "text", "text": between + content}
            last["content"].append(content)

    def _part(self, name: str, text: str) -> None:
        self.add("assistant")
        self.messages[-1][name] = self.messages[-1].get(name, "") + text

    def _call(self, block: Mapping[str, Any], where: str) -> None:
        id, name = _string(block, "id", where), _string(block, "name", where)
        self._tools[id] = name
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.add("assistant")
        arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
        self.messages[-1].setdefault("tool_calls", []).append(calls.call(id, name, arguments))

    def _result(self, block: Mapping[str, Any], where: str) -> None:
        """Templates know nothing of ``is_error``, so the model is told in words."""
        id = _string(block, "tool_use_id", where)
        text = _text(block.get("content") or "", f"{where}.content")
        if block.get("is_error"):
            text = f"Error: {text}"
        name = {"name": self._tools[id]} if id in self._tools else {}
        self.messages.append({"role": "tool", "tool_call_id": id, **name, "content": text})


def _blocks(content: Any, place: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The blocks of a content, which may be a text."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise ApiError(400, f"{place} is neither a text nor a list of blocks", param=place)
    for number, block in enumerate(content):
        where = f"{place}[{number}]"
        if not isinstance(block, Mapping):
            raise ApiError(400, f"{where} is no block; give an object with a type", param=where)
        yield block, where


def _text(content: Any, place: str) -> str:
    """The text of a content that has nothing else."""
    texts = []
    for block, where in _blocks(content, place):
        if block.get("type") != "text":
            raise _unreadable(block.get("type"), where)
        texts.append(_string(block, "text", where))
    return BETWEEN_BLOCKS.join(texts)


def _document(block: Mapping[str, Any], where: str) -> Iterator[str | dict[str, Any]]:
    """A document that was read before, or a text that stands in the request."""
    source = block.get("source")
    match source:
        case {"type": "file", "file_id": str(id)}:
            yield {"type": "file", "file": {"file_id": id}}
        case {"type": "text", "data": str(text)}:
            yield from (str(heading) for heading in (block.get("title"), block.get("context")) if heading)
            yield text
        case {"type": "content", "content": content}:
            yield from (str(heading) for heading in (block.get("title"), block.get("context")) if heading)
            yield _text(content, f"{where}.source.content")
        case _:
            raise ApiError(
                400,
                f"{where}: a document comes as text, or by its file_id; put other ones to POST /v1/files first",
                param=f"{where}.source",
                code="unsupported",
            )


def _string(block: Mapping[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise ApiError(400, f"{where}.{name} is missing, or no text", param=f"{where}.{name}")
    return value


def _unreadable(kind: Any, where: str) -> ApiError:
    return ApiError(
        400,
        f"{where}: blocks of type {kind!r} can't be read here; there are text, document, tool_use, tool_result, thinking",
        param=f"{where}.type",
        code="unsupported",
    )


def block_of(block: Block) -> dict[str, Any]:
    """A block of an answer as Anthropic has it."""
    match block.kind:
        case "reasoning":
            return {"type": "thinking", "thinking": block.text, "signature": ""}  # nothing here signs or checks
        case "call":
            input = calls.arguments_object(block.text)
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": input}
    return {"type": "text", "text": block.text}
