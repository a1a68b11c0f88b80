"""``whimbrel run --session FILE``: a conversation that goes on where it was left, also after the program has ended."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.cli import terminal
from whimbrel.cli.answer import answer_tokens, open_model
from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.backends.chat import Chat

_TEMPLATE_TOKENS = 64
"""More than a chat template puts around one message."""


def open_session(file: Path, flags: dict[str, Any], *, system: str | None) -> "Chat":
    """The conversation in the file, or a new one. Its model and settings are the flags', or else the file's.

    Raises what ``load_session`` does, ModelNotFound, and UsageError for another system message than it began with.
    """
    if not file.exists():
        return open_model(**flags).session(system=system)
    from whimbrel.backends.session import session_settings

    model, settings = session_settings(file)
    given = {name: value for name, value in flags.items() if value is not None}
    if given.get("attention", settings["attention"]) == "dense":
        settings.pop("sparse", None)
    chat = open_model(**{**flags, "model": model, **settings, **given}).session()
    tokens = chat.load_from(file)
    first = chat.messages[0] if chat.messages else {}
    began = first.get("content") if first.get("role") == "system" else None
    if system is not None and system != began:
        was = f"the system message {began!r}" if began else "no system message"
        raise UsageError(f"the conversation in {file} began with {was}; leave --system out, or begin another one")
    terminal.note(
        f"{file}: {len(chat.messages)} messages; {tokens:,} of {len(chat.token_ids):,} tokens aren't read again"
    )
    return chat


def save_session(chat: "Chat", file: Path) -> None:
    """Save the conversation, and say so. Raises what ``Chat.save_to`` does."""
    tokens = chat.save_to(file)
    terminal.note(f"saved {len(chat.messages)} messages to {file}, {tokens:,} tokens as they were read")


def turn_tokens(chat: "Chat", text: str, asked: int | None) -> int:
    """How long the answer to ``text`` may be; see ``answer_tokens``."""
    length = len(chat.token_ids) + len(chat.llm.tokenize(text)) + _TEMPLATE_TOKENS
    return answer_tokens(chat.llm, length, asked)
