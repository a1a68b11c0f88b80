"""No test items in the training text: a document that shares 12 words in a row with an evaluation set is dropped.

Words are runs of letters and digits in lower case. Each n-gram is a 64-bit polynomial of its words' hashes, computed for a
whole document in one pass; the index is a sorted array, so forked workers share it.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.data.document import KEEP, Document, Drop, Verdict
from whimbrel.errors import InvalidParameter

N = 12
_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_KNOWN = 200_000


class Decontaminate:
    """Drop documents that hold an n-gram of the evaluation texts. Texts shorter than n words are looked for whole."""

    def __init__(self, evaluation: Iterable[str], n: int = N) -> None:
        """``evaluation``: questions, answers and passages that must not be trained on. Raises InvalidParameter."""
        if n < 2:
            raise InvalidParameter(f"n={n} is impossible; want 2 or more words")
        self.n = n
        self._words: dict[str, int] = {}
        grams: dict[int, list[NDArray[np.uint64]]] = {}
        for text in evaluation:
            words = self._hashes(text)
            length = min(n, len(words))
            if length >= 4:  # shorter ones are phrases of the language
                grams.setdefault(length, []).append(_ngrams(words, length))
        self._index = {length: np.unique(np.concatenate(parts)) for length, parts in sorted(grams.items())}
        if not self._index:
            raise InvalidParameter("the evaluation texts hold no n-gram: want texts of at least 4 words")

    def __call__(self, document: Document) -> Verdict:
        """Judge one document."""
        words = self._hashes(document.text)
        for length, index in self._index.items():
            grams = _ngrams(words, length)
            if len(grams):
                places = np.minimum(np.searchsorted(index, grams), len(index) - 1)
                if (index[places] == grams).any():
                    return Drop("contaminated: shares words with an evaluation set")
        return KEEP

    def __repr__(self) -> str:
        digest = hashlib.blake2b(b"".join(index.tobytes() for index in self._index.values()), digest_size=6)
        return f"Decontaminate(n={self.n}, {digest.hexdigest()})"

    def _hashes(self, text: str) -> NDArray[np.uint64]:
        known = self._words
        if len(known) > _KNOWN:
            known.clear()
        words = _WORD.findall(text.lower())
        for word in words:
            if word not in known:
                digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                known[word] = int.from_bytes(digest, "little")
        return np.fromiter(map(known.__getitem__, words), np.uint64, len(words))


def _ngrams(words: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    count = max(len(words) - n + 1, 0)
    total = np.zeros(count, np.uint64)
    for offset in range(n):
        total = total * _FACTOR + words[offset : offset + count]
    return total


def strings_of(patterns: Sequence[str]) -> Iterator[str]:
    """Every string of every record of evaluation files (JSON lines, Parquet), or whole text files: an index's texts.

    Raises ModelNotFound, FormatError: an evaluation set that can't be read must not go unnoticed.
    """
    from whimbrel.data.reading.files import find
    from whimbrel.data.reading.records import records

    for file in find(patterns):
        for record in records(file):
            yield from _strings(record)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
