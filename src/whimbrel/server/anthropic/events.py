"""How a message is told: it starts, its blocks open, grow and close, and in the end it is known why it stopped."""

from collections.abc import Sequence
from typing import Any

from whimbrel.backends.executor import FinishReason, Usage
from whimbrel.backends.results import Completion, Piece
from whimbrel.server.anthropic.content import block_of
from whimbrel.server.blocks import Block, Blocks, Change
from whimbrel.server.dialect import error_body
from whimbrel.server.errors import Problem
from whimbrel.server.sse import event

PING = event("ping", {"type": "ping"})

_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


class Telling:
    """One message while it comes; a ``single.Teller``."""

    def __init__(self, id: str, model: str, max_tokens: int) -> None:
        """``max_tokens``: as many as were asked for."""
        self._head = {"id": id, "type": "message", "role": "assistant", "model": model}
        self._max_tokens = max_tokens
        self._blocks = Blocks()
        self._started = False

    def begin(self) -> list[bytes]:
        """Nothing yet: a message starts with the tokens of its prompt, which the first piece tells."""
        return []

    def more(self, pieces: Sequence[Piece]) -> list[bytes]:
        """What has come."""
        events = []
        if not self._started and pieces:
            self._started = True
            events += [self._start(pieces[0]), PING]
        return [*events, *(self._tell(change) for change in self._blocks.take(pieces))]

    def end(self, completion: Completion) -> list[bytes]:
        """The last block closes."""
        delta = stopped(completion, self._max_tokens)
        return [
            *(self._tell(change) for change in self._blocks.finish()),
            _event("message_delta", delta=delta, usage=usage(completion.usage)),
            _event("message_stop"),
        ]

    def failed(self, problem: Problem) -> list[bytes]:
        """An event of its own kind."""
        return [event("error", error_body("/v1/messages", problem))]

    def _start(self, piece: Piece) -> bytes:
        used = usage(Usage(piece.prompt_tokens, piece.cached_tokens, 0))
        message: dict[str, Any] = {
            **self._head,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": used,
        }
        return _event("message_start", message=message)

    def _tell(self, change: Change) -> bytes:
        block, index = change.block, change.block.index
        match change.what:
            case "begin":
                empty = block_of(Block(block.kind, index, block.id, block.name))
                return _event("content_block_start", index=index, content_block=empty)
            case "more":
                kind, name = _DELTAS[block.kind]
                return _event("content_block_delta", index=index, delta={"type": kind, name: change.text})
        return _event("content_block_stop", index=index)

    def whole(self, completion: Completion, blocks: Blocks) -> dict[str, Any]:
        """The message in one piece."""
        return {
            **self._head,
            "content": [block_of(block) for block in blocks.all],
            **stopped(completion, self._max_tokens),
            "usage": usage(completion.usage),
        }


def stopped(completion: Completion, max_tokens: int) -> dict[str, Any]:
    """Why an answer ended."""
    reason = "tool_use" if completion.tool_calls else "end_turn"
    if completion.stop is not None:
        reason = "stop_sequence"
    elif completion.finish_reason == FinishReason.LENGTH:
        cut = completion.usage.completion_tokens >= max_tokens
        reason = "max_tokens" if cut else "model_context_window_exceeded"
    return {"stop_reason": reason, "stop_sequence": completion.stop}


def usage(used: Usage) -> dict[str, Any]:
    """Tokens: those from the cache count apart from the others of the prompt."""
    tokens: dict[str, Any] = {
        "input_tokens": used.prompt_tokens - used.cached_tokens,
        "cache_creation_input_tokens": 0,  # nobody pays for what the cache keeps
        "cache_read_input_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
    }
    if used.cache_miss is not None:
        tokens["cache_miss"] = used.cache_miss
    return tokens


def _event(name: str, **fields: Any) -> bytes:
    return event(name, {"type": name, **fields})
