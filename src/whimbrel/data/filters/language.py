"""Which language a text is in, by py3langid: its model of 97 languages comes with the package, so nothing is fetched."""

import threading
from collections.abc import Sequence
from typing import Any

from whimbrel.data.document import Document, Drop, Keep, Verdict
from whimbrel.errors import MissingExtra

SAMPLE = 2000
"""characters from the beginning; more changes nothing and costs time"""


class Language:
    """Keep documents of some languages. The notes say which was found, and how sure it is."""

    def __init__(self, languages: Sequence[str], min_probability: float = 0.65) -> None:
        """``languages``: ISO 639-1 codes. Raises MissingExtra."""
        self.languages = tuple(languages)
        self.min_probability = min_probability
        self._identify = _identifier()

    def __call__(self, document: Document) -> Verdict:
        """Judge one document."""
        with _LOCK:
            language, probability = self._identify.classify(document.text[:SAMPLE])
        notes = {"language": language, "language_probability": round(float(probability), 4)}
        if language not in self.languages:
            return Drop("language: another", notes)
        return Keep(notes=notes) if probability >= self.min_probability else Drop("language: unsure", notes)

    def __repr__(self) -> str:
        return f"Language({self.languages}, {self.min_probability})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Language, (self.languages, self.min_probability)


_LOCK = threading.Lock()


def _identifier() -> Any:
    try:
        from py3langid import langid
    except ImportError as error:
        raise MissingExtra("language identification needs py3langid: `pip install whimbrel[data]`") from error
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
