"""The rules of C4 (Raffel et al. 2020, section 2.2): lines that are no sentences are taken out, and pages that are no text."""

import re
from dataclasses import dataclass

from whimbrel.data.document import KEEP, Document, Drop, Keep, Verdict

_TERMINAL = (".", "!", "?", '"', "\u201d")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[\d+\]|\[edit\]|\[citation needed\]")
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)")


@dataclass(frozen=True, kw_only=True)
class C4:
    """``terminal_punctuation``: take out lines that don't end as sentences do; FineWeb found it to cost too much text."""

    terminal_punctuation: bool = True
    min_words_of_line: int = 3
    min_sentences: int = 5

    def __call__(self, document: Document) -> Verdict:
        """Judge one document; the kept text has lost its odd lines."""
        lowered = document.text.lower()
        if "lorem ipsum" in lowered:
            return Drop("c4: lorem ipsum")
        if "{" in document.text:
            return Drop("c4: curly bracket")
        lines = [line for line in (self._line(line) for line in document.text.split("\n")) if line]
        text = "\n".join(lines)
        if len(_SENTENCE.findall(text)) < self.min_sentences:
            return Drop("c4: too few sentences")
        return KEEP if text == document.text else Keep(text=text)

    def _line(self, line: str) -> str:
        line = _CITATION.sub("", line).strip()
        lowered = line.lower()
        if len(line.split()) < self.min_words_of_line or "javascript" in lowered:
            return ""
        if any(phrase in lowered for phrase in _POLICY):
            return ""
        if self.terminal_punctuation and (not line.endswith(_TERMINAL) or line.endswith("...")):
            return ""
        return line
