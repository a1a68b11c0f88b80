"""AnswerReader: an answer's text, in pieces, to what the model thinks, what it says, and which tools it calls."""

from whimbrel.models.reasoning import ReasoningParser, Thinking
from whimbrel.models.tool_calls.parse import CallParser, Event


class AnswerReader:
    """Follows one answer: thinking comes first, then text and calls."""

    def __init__(self, thinking: Thinking | None = None, calls: CallParser | None = None) -> None:
        """``thinking``: of the prompt that is answered. ``calls``: where there are tools. Without both all is said."""
        self.thinking = thinking or Thinking()
        self._reasoning = ReasoningParser(self.thinking)
        self._calls = calls

    @property
    def marks(self) -> frozenset[str]:
        """Texts that mean something here, even where the vocabulary has control tokens for them."""
        tags = {mark for tags in self.thinking.tags for mark in (tags.start, tags.end)}
        return frozenset(tags | set(self._calls.marks if self._calls else ()))

    def feed(self, text: str) -> tuple[str, list[Event]]:
        """What these characters add to what is thought, and what is said or called, in order."""
        thought, said = self._reasoning.feed(text)
        if self._calls is not None:
            return thought, self._calls.feed(said)
        return thought, [said] if said else []

    def finish(self) -> tuple[str, list[Event]]:
        """What was held back, when nothing more will come."""
        thought, said = self._reasoning.finish()
        events: list[Event] = [said] if said else []
        if self._calls is not None:
            events = [*self._calls.feed(said), *self._calls.finish()]
        return thought, events
