"""Keep what the classifier scores at least at the threshold. The score is always stored, so thresholds can be chosen later."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whimbrel.data.document import Document, Drop, Keep, Verdict
from whimbrel.data.scoring.classifier import QualityClassifier

SCORE = "quality_ultraclean"
VERSION = "quality_version"
DIGITS = 6


class Quality:
    """Scores go to ``metadata["quality_ultraclean"]``, with a fingerprint of model and tokenizer beside them."""

    def __init__(self, classifier: QualityClassifier, threshold: float | None = 0.5) -> None:
        """``threshold``: P(positive) from which on a document is kept; None scores and keeps all."""
        self.classifier, self.threshold = classifier, threshold
        self.version = fingerprint(*classifier.made_of[:2])

    def __call__(self, document: Document) -> Verdict:
        """Judge one document."""
        return self.batch([document])[0]

    def batch(self, documents: Sequence[Document]) -> list[Verdict]:
        """Judge many at once."""
        scores = self.classifier.score(document.text for document in documents)
        return [self._verdict(float(score)) for score in scores]

    def __repr__(self) -> str:
        return f"Quality({self.version}, {self.threshold})"

    def _verdict(self, score: float) -> Verdict:
        notes = {SCORE: None if np.isnan(score) else round(score, DIGITS), VERSION: self.version}
        if self.threshold is None or score >= self.threshold:
            return Keep(notes=notes)
        return Drop("quality: below the threshold", notes)


def fingerprint(model: str, tokenizer: str) -> str:
    """Twelve hex digits that change with the model or its tokenizer: sizes, the tokenizer, and 64 samples of the model."""
    digest = hashlib.blake2b(digest_size=6)
    path = Path(tokenizer)
    digest.update((path / "tokenizer.json" if path.is_dir() else path).read_bytes())
    size = Path(model).stat().st_size
    digest.update(str(size).encode())
    with open(model, "rb") as file:
        for part in range(64):
            file.seek(size * part // 64)
            digest.update(file.read(4096))
    return digest.hexdigest()
