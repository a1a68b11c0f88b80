"""Blocks: an answer as a row of parts: what the model thinks, what it says, each tool that it wants called.

Responses have an item, Anthropic's messages a content block for each; a part ends where one of another kind begins.
Whole answers are put together from the same blocks as streams, so that both tell the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from whimbrel.backends.executor import TokenLogprob
from whimbrel.backends.results import Piece, ToolCallPiece

Kind = Literal["reasoning", "text", "call"]


@dataclass(slots=True)
class Block:
    """One part of an answer, as far as it has come."""

    kind: Kind
    index: int
    """its place in the answer"""
    id: str = ""
    """of a call, as ``name``"""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """of a text's tokens, if they were asked for"""

    @property
    def text(self) -> str:
        """What was thought or said; of a call, its arguments in JSON."""
        return "".join(self.parts)


@dataclass(slots=True)
class Change:
    """What happens to a block."""

    block: Block
    what: Literal["begin", "more", "end"]
    text: str = ""
    """what is added, where that is ``more``"""
    logprobs: Sequence[TokenLogprob] = ()


class Blocks:
    """The blocks of one answer. Feed it with pieces, and then ``finish`` it."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._open: Block | None = None
        self._call = -1
        self._before = 0  # tokens before the first that says something, or calls
        self._answering = False
        self._logprobs: list[TokenLogprob] = []

    @property
    def reasoning_tokens(self) -> int:
        """Tokens that were written before the answer proper, where the model thought."""
        return self._before if any(block.kind == "reasoning" for block in self.all) else 0

    def take(self, pieces: Sequence[Piece]) -> list[Change]:
        """What pieces change, in order; additions to one block come as one."""
        changes: list[Change] = []
        for piece in pieces:
            self._answering = self._answering or bool(piece.text or piece.tool_calls)
            self._before += 0 if self._answering else len(piece.token_ids)
            self._logprobs += piece.logprobs
            for kind, text, call in _parts(piece):
                if self._open is None or self._open.kind != kind or (call is not None and call.index != self._call):
                    changes += self._begin(kind, call)
                if text:
                    self._add(changes, text)
        return changes

    def finish(self, *, some_text: bool = False) -> list[Change]:
        """What the end of the answer changes. ``some_text``: an answer of nothing has one empty text."""
        changes = self._begin("text", None) if some_text and not self.all else []
        if self._open is not None:
            if self._open.kind == "text":
                self._open.logprobs += self._logprobs
            changes.append(Change(self._open, "end"))
            self._open = None
        return changes

    def _begin(self, kind: Kind, call: ToolCallPiece | None) -> list[Change]:
        changes = self.finish()
        block = Block(kind, len(self.all))
        if call is not None:
            block.id, block.name, self._call = call.id, call.name, call.index
        self.all.append(block)
        self._open = block
        return [*changes, Change(block, "begin")]

    def _add(self, changes: list[Change], text: str) -> None:
        block = self._open
        assert block is not None
        taken, self._logprobs = self._logprobs if block.kind == "text" else [], []
        block.parts.append(text)
        block.logprobs += taken
        last = changes[-1] if changes else None
        if last is not None and last.block is block and last.what == "more":
            last.text += text
            last.logprobs = [*last.logprobs, *taken]
        else:
            changes.append(Change(block, "more", text, taken))


def _parts(piece: Piece) -> Iterator[tuple[Kind, str, ToolCallPiece | None]]:
    if piece.reasoning:
        yield "reasoning", piece.reasoning, None
    if piece.text:
        yield "text", piece.text, None
    for call in piece.tool_calls:
        yield "call", call.arguments, call
