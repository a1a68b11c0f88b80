"""CallParser: an answer's text, in pieces cut anywhere, to what is said and which tools are called.

Text that may be the beginning of a call is held back until that is known. A call's name comes out as soon as it is
complete and one of the tools'; its arguments as they come and as the model wrote them, or (in Python's notation) once the
call is complete, as JSON. What looked like a call and isn't one is said, marks included. White space beside calls isn't.

The parser is a generator that reads on from ``_text`` and yields where it needs more: its place in the code is its state.
"""

import json
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whimbrel.models.partial import overlap
from whimbrel.models.tool_calls.arguments import read_json, read_keywords
from whimbrel.models.tool_calls.brackets import Brackets
from whimbrel.models.tool_calls.format import ToolFormat
from whimbrel.models.tool_calls.tool import Tool

JSON_HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
PYTHON_HEAD = re.compile(r"([^\s()\[\]{}'\"`,;=]+)\s*(?=\()")
PYTHON_HEAD_BEGUN = re.compile(r"[^\s()\[\]{}'\"`,;=]+\s*")
BETWEEN = re.compile(r"(?:[\s\[\],;]|```[a-z]*(?=[^a-z]))*")
FENCE_BEGUN = re.compile(r"`{1,3}[a-z]*")


@dataclass(frozen=True, slots=True)
class CallPart:
    """What a piece of text adds to a call; the first part of each has its name."""

    index: int
    name: str = ""
    arguments: str = ""


Event = str | CallPart
Reading = Generator[None, None, None]
"""Yields where more text is needed; resumed when there is some, or when the answer is over"""


class CallParser:
    """Follows one answer. Calls of unknown tools are text."""

    def __init__(self, format: ToolFormat, tools: Sequence[Tool]) -> None:
        """``format``: how the model writes calls."""
        self.calls = 0
        """how many have begun"""
        self._format = format
        self._parameters = {tool.name: tuple(tool.parameters.get("properties") or ()) for tool in tools}
        self._text = ""
        """what is still to be read"""
        self._over = False
        self._space = ""
        """white space that is said if something follows it"""
        self._said = False
        self._events: list[Event] = []
        self._reading = self._marked() if format.begin else self._unmarked()

    @property
    def marks(self) -> frozenset[str]:
        """Texts that begin and end calls."""
        return self._format.marks

    def feed(self, text: str) -> list[Event]:
        """What these characters let us say, in order."""
        self._text += text
        next(self._reading, None)
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """What was held back, when nothing more will come."""
        self._over = True
        return self.feed("")

    # --- outside of calls

    def _marked(self) -> Reading:
        begin = self._format.begin
        while True:
            at = self._text.find(begin)
            if at >= 0:
                self._say(self._take(at))
                yield from self._block(self._take(len(begin)))
            elif self._over:
                break
            else:
                self._say(self._take(len(self._text) - overlap(self._text, begin)))
                yield
        self._say_all()

    def _unmarked(self) -> Reading:
        """A call can only be at the very beginning; ``lead`` may come before it."""
        pending, lead = "", self._format.lead
        while not self._over:
            pending += self._take(len(self._text) - len(self._text.lstrip()))
            if lead and self._text.startswith(lead):
                pending, lead = pending + self._take(len(lead)), ""
            elif self._text and not lead.startswith(self._text):
                break
            else:
                yield
        if self._text.startswith("{"):
            yield from self._block(pending)
        else:
            self._say(pending)
        while not self._over:
            self._say(self._take(len(self._text)))
            yield
        self._say_all()

    def _say(self, text: str) -> None:
        text = self._space + text
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self._emit(said.lstrip() if self.calls and not self._said else said)
            self._said = True

    def _say_all(self) -> None:
        self._say(self._take(len(self._text)))
        if self._space and not self.calls:
            self._emit(self._space)

    def _emit(self, event: Event) -> None:
        """One event, joined with the one before where both are text, or of one call."""
        last = self._events[-1] if self._events else None
        if isinstance(event, str) and isinstance(last, str):
            self._events[-1] = last + event
        elif isinstance(event, CallPart) and isinstance(last, CallPart) and event.index == last.index:
            self._events[-1] = replace(last, arguments=last.arguments + event.arguments)
        else:
            self._events.append(event)

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        return taken

    # --- a block of calls

    def _block(self, pending: str) -> Reading:
        """Calls up to the end mark. ``pending``: text that is said again if no call follows it."""
        end, before = self._format.end, self.calls
        while True:
            pending += self._take(len(BETWEEN.match(self._text)[0]))  # type: ignore[index]
            if end and self._text.startswith(end):
                pending += self._take(len(end))
                break
            if not self._text or end.startswith(self._text) or FENCE_BEGUN.fullmatch(self._text):
                if self._over:
                    break
                yield
                continue
            called = self.calls
            yield from self._python_call() if self._format.python else self._json_call()
            if self.calls == called:
                self._say(pending)
                return
            pending = ""
        if self.calls == before:
            self._say(pending)

    def _announce(self, name: str, arguments: str = "") -> None:
        self._space = ""
        self._emit(CallPart(self.calls, name, arguments))
        self.calls += 1

    def _add(self, arguments: str) -> None:
        if arguments:
            self._emit(CallPart(self.calls - 1, arguments=arguments))

    # --- a call in JSON

    def _json_call(self) -> Reading:
        """Reads one object. Streams if the name comes first, as all models were taught; waits for its end otherwise."""
        brackets = Brackets()
        while self._text.startswith("{"):
            head = JSON_HEAD.match(self._text)
            if head is not None:
                yield from self._json_after(head)
                return
            end = brackets.scan(self._text)
            if end is not None:
                self._whole_object(end)
                return
            if self._over or brackets.mismatch:
                return
            yield

    def _json_after(self, head: re.Match[str]) -> Reading:
        name = _name(head[1])
        if name not in self._parameters:
            return
        self._take(head.end())
        self._announce(name)
        yield from self._json_arguments()
        yield from self._object_end()

    def _json_arguments(self) -> Reading:
        brackets, given = Brackets(), 0
        while True:
            end = brackets.scan(self._text)
            self._add(self._text[given : brackets.at])
            given = brackets.at
            if end is not None or self._over or brackets.mismatch:
                break
            yield
        self._take(given)
        if brackets.mismatch:
            yield from self._rest_as_arguments()

    def _rest_as_arguments(self) -> Reading:
        """Brackets that don't match: nobody can tell where the object ends, so it is what the block has."""
        end = self._format.end
        while True:
            at = self._text.find(end) if end else -1
            held = 0 if self._over or not end else overlap(self._text, end)
            self._add(self._take(at if at >= 0 else len(self._text) - held))
            if at >= 0 or self._over:
                return
            yield

    def _object_end(self) -> Reading:
        """The bracket that closes the call's object, and other keys before it; small models forget it, so it may lack."""
        brackets = Brackets()
        while True:
            rest = self._text.lstrip()
            if rest[:1] == "}":
                self._text = rest[1:]
                return
            end = brackets.scan("{" + rest) if rest[:1] == "," else None
            if end is not None:
                self._text = rest[end - 1 :]
                return
            if self._over or brackets.mismatch or rest[:1] not in ("", ","):
                return
            yield

    def _whole_object(self, end: int) -> None:
        try:
            call = read_json(self._text[:end])
            arguments = call.get("arguments", call.get("parameters"))
            if isinstance(arguments, str):  # JSON within JSON
                arguments = read_json(arguments)
            written = _write({} if arguments is None else arguments)
        except (TypeError, ValueError):
            return
        if isinstance(call.get("name"), str) and call["name"] in self._parameters:
            self._take(end)
            self._announce(call["name"], written)

    # --- a call in Python

    def _python_call(self) -> Reading:
        brackets = Brackets(python=True)
        while True:
            head = PYTHON_HEAD.match(self._text)
            if head is not None:
                end = brackets.scan(self._text[head.end() :])
                if end is not None:
                    self._keywords(head, head.end() + end)
                    return
            elif not PYTHON_HEAD_BEGUN.fullmatch(self._text):
                return
            if self._over or brackets.mismatch or (head and head[1] not in self._parameters):
                return
            yield

    def _keywords(self, head: re.Match[str], end: int) -> None:
        name = head[1]
        try:
            written = _write(read_keywords(self._text[head.end() : end], self._parameters[name]))
        except (KeyError, ValueError):
            return
        self._take(end)
        self._announce(name, written)


def _name(quoted: str) -> str:
    try:
        return str(read_json(quoted))
    except ValueError:
        return ""


def _write(arguments: Any) -> str:
    if not isinstance(arguments, dict):
        raise TypeError("arguments are an object")
    return json.dumps(arguments, ensure_ascii=False, allow_nan=False)
