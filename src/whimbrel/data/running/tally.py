"""What a task, or a whole run, counted. Adding tallies in the order of the inputs gives the same report whoever ran first."""

from dataclasses import dataclass, field
from typing import Any

from whimbrel.data.document import Document
from whimbrel.data.reading.fault import Fault

SAMPLES = 3
"""rejected documents shown per reason"""
FAULTS = 20
"""faults listed; all are counted"""
EXCERPT = 160
"""characters"""


@dataclass
class Tally:
    """Counts of documents and characters; ``reasons``: how many were dropped by each, with samples."""

    documents: int = 0
    kept: int = 0
    characters: int = 0
    kept_characters: int = 0
    tokens: int = 0
    """BPE tokens scored by the quality classifier"""
    reasons: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    fault_count: int = 0
    faults: list[dict[str, Any]] = field(default_factory=list)

    def dropped(self, document: Document, reason: str) -> None:
        """Count a rejected document."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        shown = self.samples.setdefault(reason, [])
        if len(shown) < SAMPLES:
            sample = {
                "id": document.id,
                "file": document.file,
                "offset": document.offset,
                "text": document.text[:EXCERPT],
            }
            shown.append(sample)

    def keeps(self, document: Document) -> None:
        """Count a document that went through."""
        self.kept += 1
        self.kept_characters += len(document.text)

    def fault(self, fault: Fault) -> None:
        """Count what could not be read."""
        self.fault_count += 1
        if len(self.faults) < FAULTS:
            self.faults.append(fault.json())

    def add(self, other: "Tally") -> None:
        """Take in the counts of the next input."""
        for name in ("documents", "kept", "characters", "kept_characters", "tokens", "fault_count"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
            shown = self.samples.setdefault(reason, [])
            shown += other.samples.get(reason, [])[: SAMPLES - len(shown)]
        self.faults += other.faults[: FAULTS - len(self.faults)]
