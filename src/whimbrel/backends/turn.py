"""UserTurn: what a chat template puts before and behind the user's text, so that a document can stand between.

The parts are tokenized each by itself: what was read stays what it is, whatever question follows. The ids may differ
from those of the whole text in one piece where a token would span a border; a document's text can't name control tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whimbrel.errors import UsageError

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM

MARKER = "DOCUMENT-52c1e0aa"
"""Stands for the user's text in a rendering; letters that no template trims."""

SEPARATOR = "\n\n---\n\n"
"""Between document and question, as ``whimbrel ask`` has it for plain files too."""


@dataclass(frozen=True, slots=True)
class UserTurn:
    """Ids before the user's text, and behind it up to where the answer begins."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def user_turn(llm: "LLM", system: str | None, template: Mapping[str, Any] | None = None) -> UserTurn:
    """Raises ``UsageError`` for a model without a chat template, or whose template changes the user's text."""
    messages = [{"role": "system", "content": system}] if system else []
    rendered = llm.render([*messages, {"role": "user", "content": MARKER}], template)
    before, found, after = rendered.partition(MARKER)
    if not found or MARKER in after:
        raise UsageError("this model's chat template changes what the user says; documents can't be kept for it")
    ids = [tuple(llm.tokenize(part, add_special=False, parse_special=True)) for part in (before, after)]
    return UserTurn(*ids)
