"""How an answer is told in JSON lines: texts as they come, calls when they are complete, figures in the last line."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from whimbrel.backends.results import Completion, Piece
from whimbrel.server import calls
from whimbrel.server.blocks import Block, Blocks, Change
from whimbrel.server.dialect import error_body
from whimbrel.server.errors import Problem
from whimbrel.server.job import Answer
from whimbrel.server.openai import wire

MEDIA_TYPE = "application/x-ndjson"

Content = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]
"""Text, thoughts and calls as a route has them"""
Extra = Callable[[Completion], dict[str, Any]]
"""What a route's last line has besides"""


class Telling:
    """One answer while it comes; a ``single.Teller``."""

    def __init__(self, answer: Answer, since: float, content: Content, extra: Extra = lambda _: {}) -> None:
        """``since``: when the request came, by ``time.monotonic``."""
        self._answer = answer
        self._since = since
        self._content = content
        self._extra = extra
        self._blocks = Blocks()

    def begin(self) -> list[bytes]:
        """Nothing yet."""
        return []

    def more(self, pieces: Sequence[Piece]) -> list[bytes]:
        """What has come."""
        return self._tell(self._blocks.take(pieces))

    def end(self, completion: Completion) -> list[bytes]:
        """The last call, and the figures."""
        last = {**self._head(), **self._content("", "", []), **self._figures(completion)}
        return [*self._tell(self._blocks.finish()), line(last)]

    def failed(self, problem: Problem) -> list[bytes]:
        """A line of its own."""
        return [line(error_body("/api/", problem))]

    def whole(self, completion: Completion, blocks: Blocks) -> dict[str, Any]:
        """The answer in one object."""
        called = [call_of(block) for block in blocks.all if block.kind == "call"]
        content = self._content(completion.text, completion.reasoning, called)
        return {**self._head(), **content, **self._logprobs(completion.logprobs), **self._figures(completion)}

    def _tell(self, changes: Sequence[Change]) -> list[bytes]:
        lines = []
        for change in changes:
            kind, text = change.block.kind, change.text
            if change.what == "more" and kind != "call":
                content = self._content(text, "", []) if kind == "text" else self._content("", text, [])
                lines.append(line({**self._head(), **content, **self._logprobs(change.logprobs), "done": False}))
            elif change.what == "end" and kind == "call":
                content = self._content("", "", [call_of(change.block)])
                lines.append(line({**self._head(), **content, "done": False}))
        return lines

    def _head(self) -> dict[str, Any]:
        return {"model": self._answer.model, "created_at": now()}

    def _logprobs(self, logprobs: Sequence[Any]) -> dict[str, Any]:
        return {"logprobs": wire.chat_logprobs(self._answer.tokenizer, logprobs)["content"]} if logprobs else {}

    def _figures(self, completion: Completion) -> dict[str, Any]:
        used, times = completion.usage, completion.timings
        return {
            "done": True,
            "done_reason": wire.finish_reason(completion).replace("tool_calls", "stop"),
            **durations(self._since, self._answer.resident.loaded),
            "prompt_eval_count": used.prompt_tokens,
            "prompt_eval_duration": nanoseconds(times.prefill),
            "eval_count": used.completion_tokens,
            "eval_duration": nanoseconds(times.decode),
            **self._extra(completion),
        }


def call_of(block: Block) -> dict[str, Any]:
    """A call, its arguments an object."""
    return {"id": block.id, "function": {"name": block.name, "arguments": calls.arguments_object(block.text)}}


def durations(since: float, loaded: float) -> dict[str, int]:
    """The whole time of a request, and how much of it went by until its model was loaded."""
    return {"total_duration": nanoseconds(monotonic() - since), "load_duration": nanoseconds(max(0.0, loaded - since))}


def line(value: Any) -> bytes:
    """One object on a line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """A duration as Ollama has it."""
    return round(seconds * 1e9)
