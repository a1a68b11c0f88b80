"""Why a text got its score: since the model is a sum, each n-gram's share is exact, and the shares add up to the score's logit."""

from dataclasses import dataclass

import numpy as np

from whimbrel.data.scoring.classifier import QualityClassifier
from whimbrel.data.scoring.evidence import probability


@dataclass(frozen=True)
class Gram:
    """An n-gram of a text. ``share``: what its occurrences add to logit(positive) - logit(negative)."""

    text: str
    count: int
    share: float


@dataclass(frozen=True)
class Explanation:
    """``score``; ``logit``, the sum of all shares; the n-grams of the greatest shares for and against."""

    score: float
    logit: float
    grams: int
    positive: tuple[Gram, ...]
    negative: tuple[Gram, ...]


def explain(classifier: QualityClassifier, text: str, top: int = 10) -> Explanation:
    """The n-grams that decided, ``top`` of each side. An n-gram's row may be shared by others: buckets are hashed."""
    rows, hashes, ends, words = classifier.words(text)
    found = classifier.evidence.rows(rows, hashes, ends)
    total = sum(int(valid.sum()) for valid in found.valid)
    shares: dict[str, list[float]] = {}
    for n, (places, valid) in enumerate(zip(found.rows, found.valid, strict=True), 1):
        for at in np.flatnonzero(valid).tolist():
            gram = " ".join(words[at : at + n])
            shares.setdefault(gram, []).append(float(classifier.evidence.table[places[at]]) / total)
    grams = sorted((Gram(gram, len(parts), sum(parts)) for gram, parts in shares.items()), key=lambda gram: gram.share)
    logit = sum(gram.share for gram in grams) if total else float("nan")
    return Explanation(
        score=float(probability(np.array([logit]))[0]),
        logit=logit,
        grams=total,
        positive=tuple(gram for gram in reversed(grams[-top:]) if gram.share > 0),
        negative=tuple(gram for gram in grams[:top] if gram.share < 0),
    )
