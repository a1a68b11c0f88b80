"""``QualityClassifier``: texts in, the probability that each is worth training on out. Normalise, pieces, evidence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whimbrel.data.scoring.evidence import Evidence, probability
from whimbrel.data.scoring.fasttext_file import EOS, SEPARATORS, FastTextFile
from whimbrel.data.scoring.normalise import line, normalise
from whimbrel.data.scoring.pieces import Pieces

BATCH_TOKENS = 1 << 16
"""tokens whose n-grams are hashed at once: large enough for numpy, small enough for the processor's cache"""
_SPLIT = str.maketrans({separator: " " for separator in SEPARATORS})
_ESCAPED = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})


class QualityClassifier:
    """A fastText model and its tokenizer as one scorer. Pickles without the model file: its 8 MB travel, or are forked."""

    def __init__(self, model: str | Path, tokenizer: str | Path, *, positive: str = "pos") -> None:
        """``model``: a ``.bin``; ``tokenizer``: a ``tokenizer.json`` or its folder; ``positive``: the label to report.

        Raises ModelNotFound, FormatError, UnsupportedModel.
        """
        self._make((str(model), str(tokenizer), positive), Evidence.fold(FastTextFile.open(model), positive))

    def _make(self, made_of: tuple[str, str, str], evidence: Evidence) -> None:
        self.made_of, self.evidence = made_of, evidence
        self.pieces = Pieces.open(made_of[1])
        self._table = _PieceWords.of(self.pieces.strings, evidence)
        self.tokens = 0
        """BPE tokens scored so far"""

    def __reduce__(self) -> tuple[object, tuple[tuple[str, str, str], Evidence]]:
        return _open, (self.made_of, self.evidence)

    def score(self, texts: Iterable[str]) -> NDArray[np.float64]:
        """P(positive) of each text, float64 [texts], equal to the official program's within 1e-5; nan: nothing to score."""
        scores: list[NDArray[np.float64]] = []
        batch: list[bytes] = []
        waiting = 0
        for text in texts:
            batch.append(self.pieces.ids(normalise(text)))
            waiting += len(batch[-1]) // 4
            if waiting >= BATCH_TOKENS:
                scores.append(self._score(batch))
                batch, waiting = [], 0
        if batch:
            scores.append(self._score(batch))
        return np.concatenate(scores) if scores else np.empty(0)

    def _score(self, documents: Sequence[bytes]) -> NDArray[np.float64]:
        self.tokens += sum(map(len, documents)) // 4
        return probability(self.evidence.difference(*self._table.words(documents)))

    def prepare(self, text: str) -> str:
        """The line that fastText reads for this text; what training files are made of."""
        return self.pieces.line(normalise(text))

    def words(self, text: str) -> "tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64], list[str]]":
        """The arguments of ``Evidence.rows`` for one text, and its words, the end of line among them."""
        rows, hashes, ends = self._table.words([self.pieces.ids(normalise(text))])
        return rows, hashes, ends, [*_words(self.prepare(text)), EOS]


def _open(made_of: tuple[str, str, str], evidence: Evidence) -> QualityClassifier:
    classifier = QualityClassifier.__new__(QualityClassifier)
    classifier._make(made_of, evidence)
    return classifier


def _words(text: str) -> list[str]:
    """A line's words as fastText parts them."""
    return [word for word in text.translate(_SPLIT).split(" ") if word]


@dataclass(frozen=True)
class _PieceWords:
    """id -> the words that its string contributes to a line, their rows and hashes; the last entry is the end of line.

    Nearly every piece is one word; white space is none, and a piece with a separator inside is several.
    ``awkward``: pieces that hold an end of line, or that Python's ``strip`` would shorten at the end of a line though fastText would not (U+2028, ...).
    """

    start: NDArray[np.int64]
    count: NDArray[np.int64]
    row: NDArray[np.int64]
    hash: NDArray[np.uint64]
    strings: list[str]
    evidence: Evidence
    awkward: NDArray[np.bool_]

    @classmethod
    def of(cls, strings: list[str], evidence: Evidence) -> "_PieceWords":
        start: list[int] = []
        count: list[int] = []
        rows: list[int] = []
        hashes: list[int] = []
        awkward: list[bool] = []
        for string in [*strings, EOS]:
            words = [word for word in _words(string.translate(_ESCAPED)) if not evidence.is_label(word)]
            found = [evidence.lookup(word) for word in words]
            start.append(len(rows))
            count.append(len(words))
            rows += [row for row, _ in found]
            hashes += [value for _, value in found]
            awkward.append(EOS in words or any(word.strip() != word for word in words))
        awkward[-1] = False
        return cls(
            np.array(start),
            np.array(count),
            np.array(rows, np.int64),
            np.array(hashes, np.uint64),
            strings,
            evidence,
            np.array(awkward),
        )

    def words(self, documents: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
        """Rows, hashes and ends (``Evidence.rows``) of documents' words; each document ends with the end of line."""
        end_of_line = np.int32(len(self.strings)).tobytes()
        ids: NDArray[np.int32] = np.frombuffer(end_of_line.join([*documents, b""]), np.int32)
        if self.awkward.take(ids).any():
            parts = [self._of_line(document) for document in documents]
            ends = np.cumsum([len(rows) for rows, _ in parts])
            return np.concatenate([rows for rows, _ in parts]), np.concatenate([hashes for _, hashes in parts]), ends
        count = self.count.take(ids)
        lengths = np.array([len(document) // 4 + 1 for document in documents])
        ends = np.cumsum(count)[np.cumsum(lengths) - 1]
        if count.max(initial=0) > 1:
            places = np.repeat(self.start.take(ids) - np.cumsum(count) + count, count) + np.arange(count.sum())
        else:
            places = self.start.take(ids if count.all() else ids[count > 0])
        return self.row.take(places), self.hash.take(places), ends

    def _of_line(self, document: bytes) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """The same for one document by way of its line, as fastText would read it: up to its first end of line."""
        ids = np.frombuffer(document, np.int32).tolist()
        words = [*_words(line(" ".join(map(self.strings.__getitem__, ids)))), EOS]
        words = words[: words.index(EOS) + 1]
        found = [self.evidence.lookup(word) for word in words if not self.evidence.is_label(word)]
        return np.array([row for row, _ in found], np.int64), np.array([value for _, value in found], np.uint64)
