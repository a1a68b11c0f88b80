"""Finds the bracket that closes everything, in text that grows: JSON's and Python's, strings respected."""

PAIRS = {"{": "}", "[": "]", "(": ")"}


class Brackets:
    """Follows one text; every part of it is looked at once."""

    def __init__(self, *, python: bool = False) -> None:
        """``python``: strings in single, double or triple quotes; otherwise JSON's."""
        self._quotes = "\"'" if python else '"'
        self._python = python
        self._open: list[str] = []
        self._quote = ""
        self.at = 0
        """how far the text was looked at"""
        self.commas: list[int] = []
        """where commas stand that only the first bracket holds"""
        self.mismatch = False
        """True once a bracket was closed by another kind"""

    def scan(self, text: str) -> int | None:
        """Where the text's first character, a bracket, is closed: behind it. None as long as it isn't.

        ``text`` is all of it so far.
        """
        while self.at < len(text) and not self.mismatch:
            step = self._string(text) if self._quote else self._code(text)
            if step == 0:
                return None
            self.at += step
            if not self._open and not self._quote:
                return self.at
        return None

    def _string(self, text: str) -> int:
        """Length of the next unit inside a string; 0 if more text is needed to tell."""
        if text[self.at] == "\\":
            return 2 if self.at + 1 < len(text) else 0
        if text.startswith(self._quote, self.at):
            length, self._quote = len(self._quote), ""
            return length
        return 0 if self._is_cut(text, self._quote) else 1

    def _code(self, text: str) -> int:
        character = text[self.at]
        if character in self._quotes:
            return self._begin_string(text, character)
        if character in PAIRS:
            self._open.append(PAIRS[character])
        elif character in "}])":
            self.mismatch = not self._open or self._open.pop() != character
        elif character == "," and len(self._open) == 1:
            self.commas.append(self.at)
        return 1

    def _begin_string(self, text: str, character: str) -> int:
        triple = character * 3
        if self._python and self._is_cut(text, triple):
            return 0
        self._quote = triple if self._python and text.startswith(triple, self.at) else character
        return len(self._quote)

    def _is_cut(self, text: str, mark: str) -> bool:
        """True if the text ends within what may be ``mark``."""
        return len(text) - self.at < len(mark) and mark.startswith(text[self.at :])
