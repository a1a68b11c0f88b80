"""The text form that the quality classifier is trained on and scores: the order of the released Ultra-FineWeb script.

1. three or more newlines become two; 2. lower case; 3. NFKD, without code points of category Mn; 4. BPE, each id as its
own decoded string, joined with one space; 5. newline, carriage return and tab become two characters each, so that the
structure of a page stays visible as tokens; 6. runs of spaces become one; 7. strip. Steps 1 to 3 are ``normalise``, 5 to 7
are ``line``; step 4 is ``pieces``.
"""

import functools
import re
import sys
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
    text = _marks(0x300, 0xFFFF).sub("", text)
    return text if max(text, default="") <= "\uffff" else _marks(0x10000, sys.maxunicode).sub("", text)


def line(pieces: str) -> str:
    """Steps 5 to 7, on pieces joined with a space: the line that fastText reads."""
    return _SPACES.sub(" ", pieces.translate(_ESCAPES)).strip()


@functools.cache
def _marks(first: int, last: int) -> re.Pattern[str]:
    """The code points of category Mn from first to last as a character class.

    A class within 16 bits is a bit map to ``re``; with one code point beyond, it is a list of ranges and 100 times slower.
    """
    marks = (chr(code) for code in range(first, last + 1) if unicodedata.category(chr(code)) == "Mn")
    return re.compile("[" + "".join(map(re.escape, marks)) + "]+")
