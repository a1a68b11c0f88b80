"""From token bytes to text that may be shown: whole characters, and nothing that may turn out to be a stop string."""

import codecs
from collections.abc import Sequence

from whimbrel.errors import InvalidParameter
from whimbrel.models.partial import overlap


class Utf8Stream:
    """Bytes in, whole characters out. A character that is cut off at the very end is never shown."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        """The characters that are complete now; bytes that can't be part of any become U+FFFD."""
        return self._decoder.decode(data)


class StopStrings:
    """Looks for stop strings in text that arrives in pieces, wherever the pieces end.

    Text that could be the beginning of a stop string is held back, and released when it turns out not to be.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises ``InvalidParameter`` for an empty stop string."""
        for stop in stops:
            if not isinstance(stop, str) or not stop:
                raise InvalidParameter(f"stop={stop!r} is impossible; each stop is a text of at least one character")
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None
        """the stop string that ended the text"""

    @property
    def none(self) -> bool:
        """There is nothing to look for."""
        return not self._stops

    def feed(self, text: str) -> str:
        """The text that may be shown now. Once ``found`` is set it ends before the stop string, and nothing follows."""
        if not self._stops or self.found is not None:
            return text if self.found is None else ""
        text = self._held + text
        matches = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if matches:
            at, self.found = min(matches, key=lambda match: match[0])
            self._held = ""
            return text[:at]
        keep = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, when nothing more will come."""
        held, self._held = self._held, ""
        return held
