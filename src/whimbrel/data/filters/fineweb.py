"""FineWeb's own rules (Penedo et al. 2024, section 3.6): lists of links, repeated lines, lines without an end."""

from dataclasses import dataclass

from whimbrel.data.document import KEEP, Document, Drop, Verdict

_STOPS = (".", "!", "?", '"', "'", "\u201d", "。", "！", "？")


@dataclass(frozen=True, kw_only=True)
class FineWeb:
    """Shares of lines and characters; the defaults are the published ones."""

    min_ended_lines: float = 0.12
    max_short_lines: float = 0.67
    short: int = 30
    """characters"""
    max_repeated_characters: float = 0.01
    max_newlines_per_word: float = 0.3

    def __call__(self, document: Document) -> Verdict:
        """Judge one document."""
        lines = [line for line in document.text.split("\n") if line.strip()]
        if not lines:
            return Drop("fineweb: empty")
        if sum(line.rstrip().endswith(_STOPS) for line in lines) < self.min_ended_lines * len(lines):
            return Drop("fineweb: lines without an end")
        if sum(len(line) <= self.short for line in lines) > self.max_short_lines * len(lines):
            return Drop("fineweb: short lines")
        characters = len(document.text.replace("\n", ""))
        seen: set[str] = set()
        repeated = 0
        for line in lines:
            repeated += len(line) if line in seen else 0
            seen.add(line)
        if repeated > self.max_repeated_characters * characters:
            return Drop("fineweb: repeated lines")
        if document.text.count("\n") > self.max_newlines_per_word * len(document.text.split()):
            return Drop("fineweb: lists")
        return KEEP
