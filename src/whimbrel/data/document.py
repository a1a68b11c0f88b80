"""A document on its way through the pipeline, and what a filter says about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(slots=True)
class Document:
    """One text with where it came from. ``offset``: byte in the decompressed file, row of a Parquet file, record of a WARC."""

    text: str
    id: str
    file: str = ""
    offset: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Keep:
    """The document goes on: with ``text`` in place of its own where a filter edits, and ``notes`` added to its metadata."""

    text: str | None = None
    notes: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """The document ends here. ``reason`` is counted, so it names a rule, not a value; ``notes`` may hold the value."""

    reason: str
    notes: dict[str, Any] | None = None


Verdict = Keep | Drop
KEEP = Keep()


class Filter(Protocol):
    """``filter(document) -> Keep | Drop(reason)``. It must not depend on which documents came before."""

    def __call__(self, document: Document) -> Verdict:
        """Judge one document."""


def judge_all(judge: Filter, documents: Sequence[Document]) -> list[Verdict]:
    """Verdicts of a batch; a filter with a method ``batch`` (scoring, where batches are faster) is asked for all at once."""
    batch = getattr(judge, "batch", None)
    return list(batch(documents)) if batch else [judge(document) for document in documents]
