"""Hard checks of a written document: its form, its length, that it is no copy, does not loop, and is no test item.

They decide alone: a document that fails one is dropped with the check's name as reason.
"""

import re
from collections import Counter
from collections.abc import Sequence

from whimbrel.data.document import KEEP, Document, Drop, Filter, Verdict
from whimbrel.data.filters.gopher import GopherRepetition
from whimbrel.data.generation.paradigms import Paradigm, sections

N = 12
_WORD = re.compile(r"\w+")
_TURN = re.compile(r"^\s*\**([A-Z][\w .-]{0,30}?)\**\s*:", re.MULTILINE)


class Checks:
    """All checks of a paradigm, the cheap ones first. ``others`` (decontamination, language, quality) come last."""

    def __init__(self, paradigm: Paradigm, *, max_overlap: float = 0.05, others: Sequence[Filter] = ()) -> None:
        """``max_overlap``: share of 12-grams of words that may also stand in the seed."""
        self.paradigm, self.max_overlap, self.others = paradigm, max_overlap, tuple(others)
        self._repetition = GopherRepetition()

    def __call__(self, document: Document, seed: str = "") -> Verdict:
        """Judge one document against the seed that it was written from."""
        for reason in (self._form(document.text), self._length(document.text), self._loops(document.text)):
            if reason:
                return Drop(reason)
        if overlap(document.text, seed) > self.max_overlap:
            return Drop("copies its seed")
        if isinstance(self._repetition(document), Drop):
            return Drop("repeats itself")
        notes = {}
        for judge in self.others:
            verdict = judge(document)
            notes.update(verdict.notes or {})
            if isinstance(verdict, Drop):
                return Drop(verdict.reason, notes)
        return KEEP

    def _form(self, text: str) -> str | None:
        found = sections(text)
        if list(found) != list(self.paradigm.sections):
            return "sections are missing, extra or out of order"
        if any(len(body.split()) < 5 for body in found.values()):
            return "a section is empty"
        if "Exercises" in found:
            exercises = re.findall(r"^\W*Exercise\b", found["Exercises"], re.MULTILINE)
            answers = re.findall(r"^\W*Answer\b", found["Exercises"], re.MULTILINE)
            if not exercises or len(exercises) != len(answers):
                return "exercises without answers"
        if "Discussion" in found and len(set(_TURN.findall(found["Discussion"]))) < 3:
            return "fewer than three voices"
        return None

    def _length(self, text: str) -> str | None:
        words = len(text.split())
        return None if self.paradigm.min_words <= words <= self.paradigm.max_words else "length"

    @staticmethod
    def _loops(text: str) -> str | None:
        """Characters that no writer means, or a short stretch that comes again and again at the end."""
        if "\ufffd" in text:
            return "broken characters"
        words = text.split()[-200:]
        grams = Counter(zip(*(words[at:] for at in range(6)), strict=False))
        return "loops" if grams and grams.most_common(1)[0][1] > 5 else None


def overlap(text: str, seed: str, n: int = N) -> float:
    """The share of a text's n-grams of words that stand in the seed."""
    mine, theirs = (_grams(part, n) for part in (text, seed))
    return len(mine & theirs) / len(mine) if mine else 0.0


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = _WORD.findall(text.lower())
    return set(zip(*(words[at:] for at in range(n)), strict=False))
