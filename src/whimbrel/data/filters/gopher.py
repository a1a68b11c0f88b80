"""The quality and repetition rules of Gopher (Rae et al. 2021, appendix A), with its thresholds."""

import re
from collections import Counter
from dataclasses import dataclass

from whimbrel.data.document import KEEP, Document, Drop, Verdict

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("•", "-", "*", "‣", "·")
_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")
_TOP = ((2, 0.20), (3, 0.18), (4, 0.16))
_REPEATED = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Whether a text looks like prose: length, length of words, symbols, bullets, ellipses, letters, stop words."""

    min_words: int = 50
    max_words: int = 100_000
    min_stop_words: int = 2
    """of the English list; 0 for other languages"""

    def __call__(self, document: Document) -> Verdict:
        """Judge one document."""
        words = document.text.split()
        count = len(words)
        if count < self.min_words:
            return Drop("gopher: too few words")
        if count > self.max_words:
            return Drop("gopher: too many words")
        if not 3 <= sum(map(len, words)) / count <= 10:
            return Drop("gopher: mean length of words")
        text = document.text
        if text.count("#") / count > 0.1 or (text.count("...") + text.count("…")) / count > 0.1:
            return Drop("gopher: symbols")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if sum(line.startswith(_BULLETS) for line in lines) > 0.9 * len(lines):
            return Drop("gopher: bullets")
        if sum(line.endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
            return Drop("gopher: ellipses")
        if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * count:
            return Drop("gopher: words without letters")
        if len(STOP_WORDS.intersection(map(str.lower, words))) < self.min_stop_words:
            return Drop("gopher: stop words")
        return KEEP


@dataclass(frozen=True)
class GopherRepetition:
    """Whether a text says the same again: repeated lines, paragraphs and n-grams of words."""

    def __call__(self, document: Document) -> Verdict:
        """Judge one document."""
        text = document.text.strip()
        for name, parts in (("paragraphs", _PARAGRAPHS.split(text)), ("lines", _LINES.split(text))):
            count, characters = _repeated(parts)
            if count > 0.3 * len(parts) or characters > 0.2 * max(len(text), 1):
                return Drop(f"gopher: repeated {name}")
        words = text.split()
        total = sum(map(len, words))
        for n, limit in _TOP:
            grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
            if grams:
                gram, times = max(grams.items(), key=lambda item: item[1] * sum(map(len, item[0])))
                if times > 1 and times * sum(map(len, gram)) > limit * total:
                    return Drop(f"gopher: top {n}-gram")
        for n, limit in _REPEATED:
            if _covered(words, n) > limit * total:
                return Drop(f"gopher: repeated {n}-grams")
        return KEEP


def _repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts came before, and their characters."""
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        seen.add(part)
    return count, characters


def _covered(words: list[str], n: int) -> int:
    """Characters of words inside n-grams that came before, each word counted once."""
    seen: set[tuple[str, ...]] = set()
    covered, end = 0, 0
    for at, gram in enumerate(zip(*(words[i:] for i in range(n)), strict=False)):
        if gram in seen:
            covered += sum(map(len, words[max(at, end) : at + n]))
            end = at + n
        seen.add(gram)
    return covered
