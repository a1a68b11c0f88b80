"""Thinking: the tags of a chat template, and an answer's text split into what is thought and what is said.

Models that think write it first, between tags that their template names. Some templates open the tag themselves, at the
end of the prompt; some close it there too, which means that this answer is to come without thinking.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from whimbrel.models.partial import overlap


@dataclass(frozen=True, slots=True)
class ThinkingTags:
    """What stands before and behind what is thought."""

    start: str
    end: str


KNOWN = (
    ThinkingTags("<think>", "</think>"),  # DeepSeek-R1, Qwen3, MiniCPM4.1, SmolLM3
    ThinkingTags("<|thought_start|>", "<|thought_end|>"),  # MiniCPM3 and 4, before tool calls
    ThinkingTags("[THINK]", "[/THINK]"),  # Magistral
    ThinkingTags("<seed:think>", "</seed:think>"),  # Seed-OSS
)


class Opening(StrEnum):
    """What a prompt says about thinking."""

    FREE = "free"
    """nothing: the answer may begin with it"""
    OPEN = "open"
    """the start tag: the answer goes on in it"""
    CLOSED = "closed"
    """both tags: the answer comes without it"""


@dataclass(frozen=True, slots=True)
class Thinking:
    """How answers to one prompt think."""

    tags: tuple[ThinkingTags, ...] = ()
    """what a thought may be marked with; none where the model doesn't think"""
    opening: Opening = Opening.FREE
    opened: ThinkingTags | None = None
    """the tags that the prompt opened"""

    @property
    def precedes(self) -> bool:
        """True if something may be thought before the answer."""
        return bool(self.tags) and self.opening != Opening.CLOSED


def find_tags(template: str) -> tuple[ThinkingTags, ...]:
    """The tags that a chat template's source names."""
    return tuple(tags for tags in KNOWN if tags.end in template)


def thinking_after(prompt: str, tags: Sequence[ThinkingTags]) -> Thinking:
    """How answers to a prompt think; its last characters decide."""
    prompt = prompt.rstrip()
    for pair in tags:
        if prompt.endswith(pair.start):
            return Thinking(tuple(tags), Opening.OPEN, pair)
        if prompt.endswith(pair.end):
            return Thinking(tuple(tags), Opening.CLOSED)
    return Thinking(tuple(tags))


class ReasoningParser:
    """Follows one answer. Text that may be a tag is held back; white space around what is thought is neither part's."""

    def __init__(self, thinking: Thinking) -> None:
        """``thinking``: of the prompt that is answered."""
        self._tags = thinking.tags
        self._opened = thinking.opened
        self._text = ""
        self._over = False
        self._thought: list[str] = []
        self._said: list[str] = []
        self._reading = self._answer()

    def feed(self, text: str) -> tuple[str, str]:
        """What these characters add to what is thought, and to what is said."""
        self._text += text
        next(self._reading, None)
        parts = "".join(self._thought), "".join(self._said)
        self._thought, self._said = [], []
        return parts

    def finish(self) -> tuple[str, str]:
        """What was held back, when nothing more will come."""
        self._over = True
        return self.feed("")

    def _answer(self) -> Generator[None, None, None]:
        tags = self._opened
        while tags is None:
            rest = self._text.lstrip()
            tags = next((pair for pair in self._tags if rest.startswith(pair.start)), None)
            if tags is not None or self._over or not any(pair.start.startswith(rest) for pair in self._tags):
                break
            yield
        if tags is not None:
            yield from self._think(tags)
            while not self._text.lstrip() and not self._over:
                yield
            self._text = self._text.lstrip()
        while True:
            self._said.append(self._text)
            self._text = ""
            yield

    def _think(self, tags: ThinkingTags) -> Generator[None, None, None]:
        yield from self._skip_start(tags.start)
        begun = False
        while True:
            if not begun:
                self._text = self._text.lstrip()
                begun = bool(self._text)
            at = self._text.find(tags.end)
            whole = self._text[
                : at if at >= 0 else len(self._text) - (0 if self._over else overlap(self._text, tags.end))
            ]
            thought = whole.rstrip()
            self._thought.append(thought)
            if at >= 0:
                self._text = self._text[at + len(tags.end) :]
                return
            self._text = "" if self._over else self._text[len(thought) :]
            if self._over:
                return
            yield

    def _skip_start(self, start: str) -> Generator[None, None, None]:
        """The start tag, which a model may write although the prompt has it already."""
        while not self._over and start.startswith(self._text.lstrip()) and self._text.lstrip() != start:
            yield
        if self._text.lstrip().startswith(start):
            self._text = self._text.lstrip()[len(start) :]
