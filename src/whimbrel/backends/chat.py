"""Chat: a conversation whose history is token ids.

What the model wrote, its thinking included, is never tokenized again: text that was tokenized anew may give other ids,
and then the cache of everything after it is lost. Each turn appends only what the template puts between the last answer
and the next one. To find that, the conversation is rendered with a marker in the place of the last answer, and cut behind
it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.backends.executor import FinishReason
from whimbrel.backends.results import Completion
from whimbrel.backends.stream import Stream
from whimbrel.errors import FormatError, UsageError

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM

MARKER = "ANSWER-7f3a9c51"
"""Stands for an answer in a rendering; letters that no template trims."""

FORMAT = 1
"""Version of ``Chat.save``'s dictionary."""


class Chat:
    """Turns of user and assistant. ``messages`` is what was said, ``token_ids`` what the model has read and written."""

    def __init__(self, llm: "LLM", *, system: str | None = None, template: Mapping[str, Any] | None = None) -> None:
        """Made by ``LLM.session``. ``template``: variables for the chat template, the same for all turns."""
        self.messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        self.token_ids: tuple[int, ...] = ()
        self._llm = llm
        self._template = template
        self._before: list[tuple[int, tuple[int, ...]]] = []

    def send(self, text: str, **options: Any) -> Completion:
        """Say something and wait for the whole answer; options as for ``LLM.stream``."""
        return self.stream(text, **options).drain()

    def stream(self, text: str, **options: Any) -> Stream:
        """Say something; the answer piece by piece. It joins the history when it ends or is closed, not before.

        ``overflow="truncate"`` forgets the oldest turns where the context is full; "error" refuses.
        Raises as ``LLM.stream`` does, and ``UsageError`` for an empty text; the history is unchanged then.
        """
        if not text:
            raise UsageError("the message is empty; say something")
        message = {"role": "user", "content": text}
        if self._llm.cuts(options.pop("overflow", None)):
            self._make_room(message, options)
        stream = self._llm.stream_ids(self._prompt_ids(message), overflow="error", conversation=True, **options)
        stream.on_end = lambda completion: self._append(message, completion)
        return stream

    def undo(self) -> str | None:
        """Take the last turn back: what the user said then, or None if there is none."""
        if not self._before:
            return None
        count, self.token_ids = self._before.pop()
        said = str(self.messages[count]["content"])
        del self.messages[count:]
        return said

    def save(self) -> dict[str, Any]:
        """The conversation as a dictionary for JSON; ``load`` takes it back."""
        return {
            "format": FORMAT,
            "source": self._llm.source,
            "messages": [dict(message) for message in self.messages],
            "template": None if self._template is None else dict(self._template),
            "token_ids": list(self.token_ids),
            "before": [[count, len(ids)] for count, ids in self._before],
        }

    def save_to(self, path: str | Path) -> int:
        """Save to a file with the keys and values of what was read, so that nothing of it is read again tomorrow.

        The number of tokens that are in it: whole blocks of 64. Raises ``WriteError`` (disk full; an older file stays),
        ``UsageError`` (no such folder).
        """
        from whimbrel.backends.session import save_session

        return save_session(self, path)

    def load_from(self, path: str | Path) -> int:
        """Go on with a conversation that ``save_to`` saved; the number of its tokens that needn't be read again.

        Saved with another model or under other settings it is read again, which is logged. Raises ``FormatError`` for a
        damaged or foreign file, ``UsageError`` where there is none; the conversation is unchanged then.
        """
        from whimbrel.backends.session import load_session

        return load_session(self, path)

    @property
    def llm(self) -> "LLM":
        """The model that is talked to."""
        return self._llm

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on with a saved conversation. Raises ``FormatError`` if it isn't one; the history is unchanged then.

        Saved ids belong to one vocabulary: with another model the messages are kept and tokenized anew. Variables for the
        chat template that were saved replace this conversation's own.
        """
        try:
            if saved["format"] != FORMAT:
                raise FormatError(f"a conversation of format {saved['format']}; this version reads {FORMAT}")
            messages = [{**message, "role": str(message["role"])} for message in saved["messages"]]
            template = None if saved.get("template") is None else dict(saved["template"])
            ids = tuple(int(id) for id in saved["token_ids"])
            before = [(int(count), ids[: int(length)]) for count, length in saved["before"]]
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"this is no saved conversation: {error!r}; save one with /save") from None
        same = saved.get("source") == self._llm.source
        self._template = self._template if template is None else template
        self.messages, self.token_ids, self._before = messages, ids if same else (), before if same else []

    def _make_room(self, message: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Forget the oldest turns if the conversation doesn't fit any more."""
        sampling = {name: value for name, value in options.items() if name not in ("stop", "shape")}
        kept, cut = self._llm.fit_messages([*self.messages, message], self._template, **sampling)
        if cut:
            self.messages = [dict(old) for old in kept[:-1]]
            self.token_ids, self._before = (), []

    def _prompt_ids(self, message: Mapping[str, Any]) -> list[int]:
        """History, and what the template puts between it and the next answer."""
        if self.token_ids:
            rest = self._between(message)
            ids = None if rest is None else self._llm.continuation_ids(rest)
            if ids is not None:
                return [*self.token_ids, *ids]
        text = self._llm.render([*self.messages, message], self._template)
        return self._llm.tokenize(text, add_special=False, parse_special=True)

    def _between(self, message: Mapping[str, Any]) -> str | None:
        """The text between the last answer and the next; None if the template doesn't show the answer as it is."""
        marked = [*self.messages[:-1], {**self.messages[-1], "content": MARKER}]
        text = self._llm.render([*marked, message], self._template)
        _, found, rest = text.partition(MARKER)
        return rest if found and MARKER not in rest else None

    def _append(self, message: dict[str, Any], completion: Completion) -> None:
        if completion.finish_reason == FinishReason.ABORT and not completion.token_ids:
            return
        self._before.append((len(self.messages), self.token_ids))
        thought = {"reasoning_content": completion.reasoning} if completion.reasoning else {}
        self.messages += [message, {"role": "assistant", "content": completion.text, **thought}]
        self.token_ids = (*completion.prompt_token_ids, *self._llm.answer_ids(completion))
