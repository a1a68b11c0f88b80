"""What a model wrote, kept so that the next turn of a conversation is read as it was written.

A conversation comes back as messages: rendered and tokenized anew, its ids could differ from those that the model wrote,
and what is cached behind the first difference would be lost. Two things are remembered:

- rendered conversations and their ids: a text that begins with one keeps these ids;
- answers with tool calls, by the first call's id: messages bring calls back as data, from which a template writes another
  text than the model did (other white space, another order of keys). Put in as text, the answer stays what it was.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from whimbrel.models.chat import Message
from whimbrel.models.tool_calls.arguments import read_json

CONVERSATIONS = 64
"""Conversations whose text and ids are kept for their next turn; about 8 bytes a token."""

ANSWERS = 1024
"""Answers with tool calls whose text is kept."""

Call = tuple[str, Any]
"""A tool's name and its arguments, as a value"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote, and what was made of it."""

    raw: str
    content: str
    calls: tuple[Call, ...]


class Written:
    """The latest conversations and answers; the oldest go first. Safe to use from several threads."""

    def __init__(self) -> None:
        """Remembers nothing yet."""
        self._conversations: dict[str, array[int]] = {}
        self._answers: dict[str, Answer] = {}
        self._lock = Lock()

    def remember(self, text: str, ids: Sequence[int]) -> None:
        """A conversation up to the end of the model's answer."""
        with self._lock:
            _put(self._conversations, text, array("i", ids), CONVERSATIONS)

    def remember_calls(self, id: str, raw: str, content: str, calls: Sequence[tuple[str, str]]) -> None:
        """An answer with calls (names and arguments as JSON text), the first of which has this id."""
        try:
            read = tuple((name, read_json(arguments)) for name, arguments in calls)
        except ValueError:
            return  # a call that was cut off: nobody sends that back
        with self._lock:
            _put(self._answers, id, Answer(raw, content, read), ANSWERS)

    def known(self, text: str) -> tuple[str, Sequence[int]]:
        """The longest remembered conversation that a text begins with, and its ids; empty if there is none."""
        with self._lock:
            found = max((old for old in self._conversations if text.startswith(old)), key=len, default="")
            return found, self._conversations.get(found, ())

    def as_written(self, messages: Sequence[Message]) -> list[Message] | None:
        """The messages, with answers that are remembered as the model wrote them; None if there are none."""
        turns = [self._as_written(message) for message in messages]
        return turns if any(new is not old for new, old in zip(turns, messages, strict=True)) else None

    def _as_written(self, message: Message) -> Message:
        calls = message.get("tool_calls")
        if not calls or not isinstance(calls[0], Mapping):
            return message
        with self._lock:
            answer = self._answers.get(str(calls[0].get("id")))
        if answer is None or answer.calls != _read(calls) or answer.content != (message.get("content") or ""):
            return message
        return {"role": "assistant", "content": answer.raw}


def _put(kept: dict[str, Any], key: str, value: Any, most: int) -> None:
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]


def _read(calls: Sequence[Mapping[str, Any]]) -> tuple[Call, ...] | None:
    """Calls of a message as names and values; None if they aren't calls."""
    try:
        functions = [call["function"] for call in calls]
        texts = [(function["name"], function["arguments"]) for function in functions]
        return tuple((name, read_json(value) if isinstance(value, str) else value) for name, value in texts)
    except (KeyError, TypeError, ValueError):
        return None
