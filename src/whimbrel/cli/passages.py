"""What an answer read, on the terminal: a heat strip of the documents, and the passages."""

from typing import TYPE_CHECKING

from whimbrel.cli import terminal

if TYPE_CHECKING:
    from whimbrel.backends.passages import DocumentMap
    from whimbrel.backends.results import Completion

_WIDTH = 72
"""Characters of the strip."""
_SHOWN = 300
"""Characters of a passage; the rest is in ``--json``."""


def show_passages(completion: "Completion", read_map: "DocumentMap") -> None:
    """The strip, then each passage with its place and share, the one that was read most first."""
    if not completion.passages:
        terminal.note("the answer is too short to tell what it read, or the documents fill no block of their own")
        return
    terminal.note(f"read |{read_map.strip(completion, _WIDTH)}|")
    for passage in completion.passages:
        place = f"{passage.document}, characters {passage.start:,} to {passage.end:,}"
        terminal.note(f"\n{passage.score:.1%} of the attention: {place}")
        terminal.note(_shortened(passage.text))


def _shortened(text: str) -> str:
    """One paragraph of at most ``_SHOWN`` characters."""
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN else words[: _SHOWN - 3].rsplit(" ", 1)[0] + " ..."
