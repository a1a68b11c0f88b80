"""A two-label fastText model folded into one number per row: 8 MB instead of 2 GB, and no vectors left to add.

fastText averages the rows of a text's words and n-grams and multiplies the mean with the output matrix W. Both are linear, so

    logit(pos) - logit(neg) = mean over rows of (W_pos - W_neg) . row

and the product is taken once per row when the model is loaded, instead of 256 additions for every n-gram of every text. This
is the same function, not an approximation: scores differ by float32 rounding only (tests hold it to 1e-5).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whimbrel.data.scoring.fasttext_file import LABEL, FastTextFile, word_hash
from whimbrel.errors import UnsupportedModel

NGRAM_FACTOR = np.uint64(116049371)
LOG_SHIFT = 1e-5
"""fastText takes log(p + 1e-5), and what it prints is the exponential of that"""
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Evidence:
    """``table`` float32 [words + bucket]: what each row adds to logit(pos) - logit(neg), before the mean."""

    table: NDArray[np.float32]
    words: dict[str, int]
    bucket: int
    word_ngrams: int

    @classmethod
    def fold(cls, model: FastTextFile, positive: str = "pos") -> "Evidence":
        """Multiply the input matrix with the difference of the two output rows, block by block over the map.

        Raises UnsupportedModel when the model has other than two labels, or none called ``positive``.
        """
        label = positive if positive.startswith(LABEL) else LABEL + positive
        if len(model.labels) != 2 or label not in model.labels:
            found = ", ".join(model.labels[:6])
            raise UnsupportedModel(f"{model.path} has the labels {found}; want two, one of them {label}")
        sign = model.labels.index(label)
        direction = model.output[sign] - model.output[1 - sign]
        table = np.empty(len(model.input), np.float32)
        for at in range(0, len(table), _BLOCK):
            np.dot(model.input[at : at + _BLOCK], direction, out=table[at : at + _BLOCK])
        return cls(table, model.words, model.bucket, model.word_ngrams)

    def rows(self, words: NDArray[np.int64], hashes: NDArray[np.uint64], ends: NDArray[np.int64]) -> "Rows":
        """The rows of all n-grams of a batch of texts.

        words [total]: row of each word, -1 for one below the model's minimum count; hashes [total], sign-extended;
        ends [texts]: the position after each text's last word.
        """
        left = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(words))
        rows, valid = [words], [words >= 0]
        running = hashes
        for length in range(2, self.word_ngrams + 1 if self.bucket else 2):
            running = running[:-1] * NGRAM_FACTOR + hashes[length - 1 :]
            found = np.full(len(words), -1, np.int64)
            found[: len(running)] = running % np.uint64(self.bucket)
            found += len(self.words)
            rows.append(found)
            valid.append(left >= length)
        return Rows(rows, valid)

    def difference(
        self, words: NDArray[np.int64], hashes: NDArray[np.uint64], ends: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """logit(pos) - logit(neg) of each text; nan for a text without a single row. Arguments as of ``rows``."""
        found = self.rows(words, hashes, ends)
        total = np.zeros(len(words), np.float64)
        count = np.zeros(len(words), np.int64)
        for rows, valid in zip(found.rows, found.valid, strict=True):
            total += np.where(valid, self.table.take(rows, mode="clip"), 0)
            count += valid
        starts = np.concatenate([[0], ends[:-1]])
        empty = starts == ends
        if not len(words):
            return np.full(len(ends), np.nan)
        sums = np.add.reduceat(total, np.minimum(starts, len(words) - 1))
        counts = np.add.reduceat(count, np.minimum(starts, len(words) - 1))
        counts = np.where(empty, 0, counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(counts > 0, sums / counts, np.nan)

    def lookup(self, word: str) -> tuple[int, int]:
        """Row (-1: none) and sign-extended 64-bit hash of a word, as fastText finds them."""
        value = word_hash(word)
        return self.words.get(word, -1), value | 0xFFFFFFFF00000000 if value >> 31 else value

    def is_label(self, word: str) -> bool:
        """Whether fastText would take this word of a text for a label, and so leave it out."""
        return word not in self.words and word.startswith(LABEL)


@dataclass(frozen=True)
class Rows:
    """For n = 1, 2, ...: the table's row of the n-gram that starts at each position, and whether there is one."""

    rows: list[NDArray[np.int64]]
    valid: list[NDArray[np.bool_]]


def probability(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """The released script's score of the positive label, from logit(pos) - logit(neg).

    fastText reports the winning label as p + 1e-5, clamped to 1; where the other label wins, its complement is the score.
    """
    winner = np.minimum(1 / (1 + np.exp(-np.abs(difference))) + LOG_SHIFT, 1.0)
    return np.where(difference >= 0, winner, 1 - winner)
