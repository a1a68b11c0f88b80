"""ToolTemplate: conversations with tools through one chat template, whatever it knows of them.

Which notation a template has is guessed from its source and then proved: it renders a call, and ``CallParser`` has to
read the same call back. The way in which it wants messages (arguments as a mapping or as JSON text, results in a role of
their own) is found by the same rendering. A template that fails gets the tools in the system message, and calls and
results as text in the turns of assistant and user.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any

from whimbrel.errors import UsageError
from whimbrel.models.chat import ChatTemplate, Message
from whimbrel.models.tool_calls.arguments import read_json
from whimbrel.models.tool_calls.format import GENERIC, HERMES, LLAMA, MINICPM, MISTRAL, SMOLLM, ToolFormat
from whimbrel.models.tool_calls.parse import CallParser, CallPart
from whimbrel.models.tool_calls.tool import Tool

NO_TOOLS = (
    "this model's chat template knows no tools: they are described in the system message, and the model calls them worse "
    "than one that was trained to"
)
UNKNOWN_NOTATION = (
    "this model's chat template writes tool calls in a notation that isn't known here: tools are described in the system "
    "message instead, and the model may call them worse than it could"
)

INSTRUCTIONS = """You can call tools. To call one, write this, once for each call, and then stop:
{example}
The tools, each with the JSON schema of its arguments:
{tools}
You get their results between <tool_response> and </tool_response>. Where no tool helps, answer in plain text."""

THOUGHT_FIELDS = ("reasoning_content", "thought", "thinking", "reasoning")
"""Names under which templates and clients know what an assistant thought."""

MARK = "MARK-61d0c4e8"
"""Stands for what a rendering must show; letters that no template trims."""

PROBE = Tool(name="probe_tool", parameters={"type": "object", "properties": {"text": {}, "count": {}}})
PROBE_ARGUMENTS: Mapping[str, Any] = {"text": f'a "{MARK}"', "count": 3}


@dataclass(frozen=True, slots=True)
class MessageForm:
    """How a template wants messages about calls."""

    mapping: bool = True
    """arguments as a mapping; otherwise as JSON text"""
    result_role: bool = True
    """results in messages of the role ``tool``; otherwise in the user's"""


class ToolTemplate:
    """What one chat template does with tools."""

    def __init__(self, template: ChatTemplate) -> None:
        """Renders a call a few times, to find out."""
        self._template = template
        self.notice = ""
        """what makes calls worse than they could be"""
        self.format, self._form = GENERIC, MessageForm()
        self.native = False
        """True if the template itself renders tools and calls"""
        found = _notations(template.source)
        for format in found:
            form = self._proved(format)
            if form is not None:
                self.format, self._form, self.native = format, form, True
                break
        else:
            self.notice = UNKNOWN_NOTATION if re.search(r"\btools\b", template.source) else NO_TOOLS

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = (), /, **variables: Any) -> str:
        """A conversation with tools, calls and results in it. Raises as ``ChatTemplate.render`` does, and for
        messages about calls that can't be understood ``UsageError``."""
        turns = checked_messages(messages)
        if self.native:
            native = [self._native_message(turn) for turn in _with_names(turns)]
            described = [tool.described for tool in tools] or None
            return self._template.render(native, **{"tools": described, **variables})
        return self._template.render(self._plain(turns, tools), **variables)

    # --- a template that knows calls

    def _native_message(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if "tool_calls" in message:
            return {**message, "tool_calls": [self._native_call(call) for call in message["tool_calls"]]}
        if message.get("role") == "tool" and not self._form.result_role:
            return {"role": "user", "content": _result(message)}
        if message.get("role") == "tool" and self.format is MISTRAL and "tool_call_id" in message:
            return {**message, "tool_call_id": _short_id(message["tool_call_id"])}
        return message

    def _native_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        written = arguments if self._form.mapping else json.dumps(arguments, ensure_ascii=False)
        id = _short_id(call.get("id", "")) if self.format is MISTRAL else call.get("id", "")
        return {"id": id, "type": "function", "function": {"name": name, "arguments": written}}

    # --- a template that doesn't

    def _plain(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[Mapping[str, Any]]:
        """Everything about tools as text, for any template that has a user and an assistant."""
        plain: list[Mapping[str, Any]] = []
        results = False
        for message in messages:
            if message.get("role") == "tool":
                before = f"{plain.pop()['content']}\n" if results else ""
                message = {"role": "user", "content": before + _result(message)}
                results = True
            else:
                message, results = self._as_text(message), False
            plain.append(message)
        return self._described(plain, tools) if tools else plain

    def _as_text(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if "tool_calls" not in message:
            return message
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
        said = f"{message['content']}\n" if message.get("content") else ""
        rest = {key: value for key, value in message.items() if key != "tool_calls"}
        return {**rest, "content": said + self.format.write(calls)}

    def _described(self, messages: list[Mapping[str, Any]], tools: Sequence[Tool]) -> list[Mapping[str, Any]]:
        """The tools in the system message, or before what the user says first where there can be none."""
        text = INSTRUCTIONS.format(
            example=self.format.write([("NAME", {"ARGUMENT": "VALUE"})]),
            tools="\n".join(json.dumps(tool.described["function"], ensure_ascii=False) for tool in tools),
        )
        first = messages[0] if messages else {}
        if first.get("role") == "system":
            return [{**first, "content": f"{first.get('content') or ''}\n\n{text}".lstrip()}, *messages[1:]]
        if self._has_system:
            return [{"role": "system", "content": text}, *messages]
        return [{**first, "content": f"{text}\n\n{first.get('content')}"}, *messages[1:]]

    @property
    def _has_system(self) -> bool:
        shown = self._try([{"role": "system", "content": MARK}, {"role": "user", "content": "hello"}])
        return shown is not None and MARK in shown

    # --- finding out

    def _proved(self, format: ToolFormat) -> MessageForm | None:
        """The form of messages with which the template writes a call as ``format`` has it; None if there is none."""
        question: Message = {"role": "user", "content": "question"}
        start = self._try([question], add_generation_prompt=True)
        for mapping in (True, False):
            arguments = dict(PROBE_ARGUMENTS) if mapping else json.dumps(PROBE_ARGUMENTS)
            function = {"name": PROBE.name, "arguments": arguments}
            call = {"id": "probe0001", "type": "function", "function": function}
            turns: list[Message] = [question, {"role": "assistant", "content": "", "tool_calls": [call]}]
            shown = self._try(turns)
            if start is None or shown is None:
                continue
            if _calls(format, shown[len(commonprefix([start, shown])) :]) == [(PROBE.name, PROBE_ARGUMENTS)]:
                result = {"role": "tool", "content": MARK, "tool_call_id": "probe0001", "name": PROBE.name}
                answered = self._try([*turns, result])
                return MessageForm(mapping, answered is not None and answered.count(MARK) > shown.count(MARK))
        return None

    def _try(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str | None:
        try:
            return self._template.render(messages, add_generation_prompt=add_generation_prompt)
        except UsageError:
            return None


def _notations(source: str) -> list[ToolFormat]:
    """The notations that a template's source looks like, the likeliest first."""
    if not re.search(r"\btool_calls?\b|\btools\b", source):
        return []
    found = []
    if MINICPM.begin in source:
        found.append(MINICPM)
    if HERMES.begin in source:
        found += [SMOLLM, HERMES] if re.search(r"<tool_call>(\\n|\s)*\[", source) else [HERMES]
    if MISTRAL.begin in source:
        found.append(MISTRAL)
    if '"parameters": ' in source:
        found.append(LLAMA)
    return found


def _calls(format: ToolFormat, text: str) -> list[tuple[str, Any]]:
    """The calls in a text, as names and values."""
    parser = CallParser(format, [PROBE])
    written: dict[int, tuple[str, str]] = {}
    for part in [*parser.feed(text), *parser.finish()]:
        if isinstance(part, CallPart):
            name, arguments = written.get(part.index, ("", ""))
            written[part.index] = (name + part.name, arguments + part.arguments)
    try:
        return [(name, read_json(arguments)) for name, arguments in written.values()]
    except ValueError:
        return []


def checked_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in one form: calls with mappings, no empty lists of calls, content that is there, thoughts by every name."""
    turns = []
    for place, message in enumerate(messages):
        turn = dict(message)
        calls = turn.pop("tool_calls", None)
        if calls:
            turn["tool_calls"] = [_call(f"messages[{place}].tool_calls[{n}]", call) for n, call in enumerate(calls)]
        if turn.get("content") is None and (calls or "content" in turn):
            turn["content"] = ""
        thought = next((turn[name] for name in THOUGHT_FIELDS if turn.get(name)), None)
        if thought is not None:
            turn |= dict.fromkeys(THOUGHT_FIELDS, thought)
        turns.append(turn)
    return turns


def _call(place: str, call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not name:
        raise UsageError(f'{place} has no name; give {{"id": ..., "function": {{"name": ..., "arguments": ...}}}}')
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise UsageError(f"{place}.function.arguments of {name!r} is no JSON: {error}") from None
    if not isinstance(arguments, Mapping | None):
        raise UsageError(f"{place}.function.arguments of {name!r} is no object; arguments have names")
    function = {"name": name, "arguments": dict(arguments or {})}
    return {"id": str(call.get("id") or ""), "type": "function", "function": function}


def _with_names(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Results say which tool they are from, as some templates want to know."""
    names: dict[str, str] = {}
    turns: list[Mapping[str, Any]] = []
    for message in messages:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message.get("role") == "tool" and "name" not in message and message.get("tool_call_id") in names:
            message = {**message, "name": names[message["tool_call_id"]]}
        turns.append(message)
    return turns


def _result(message: Mapping[str, Any]) -> str:
    return f"<tool_response>\n{message.get('content')}\n</tool_response>"


def _short_id(id: str) -> str:
    """Mistral's templates want nine letters or digits."""
    fits = len(id) == 9 and id.isascii() and id.isalnum()
    return id if fits else hashlib.sha256(id.encode()).hexdigest()[:9]
