"""What RULER's tasks are made from: a draft of a prompt for a number of units, and the sources behind it."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whimbrel.errors import InvalidParameter
from whimbrel.eval.haystack import Haystack, read_haystack
from whimbrel.eval.ruler.sources import QuestionSet, document_questions, read_hotpotqa, read_squad

NOISE = "The river is cold. The stone is grey. The path is long. We walk on. We turn around and go home."
"""A line that says nothing, repeated as often as it takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A prompt as text."""

    text: str
    beginning: str
    """of the answer"""
    answers: tuple[str, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Drafts of one question by the number of units (noise lines, characters, words, documents) that they contain."""

    build: Callable[[int], Draft]
    guess: int
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, kw_only=True)
class Materials:
    """Sources of the tasks."""

    haystack: Haystack
    questions: Mapping[str, QuestionSet]
    """by task: qa_1 (SQuAD), qa_2 (HotpotQA) if their files were given; documents_qa_1, documents_qa_2"""

    @property
    def about(self) -> dict[str, object]:
        """What a record says of the sources."""
        return {
            "haystack": self.haystack.about,
            "questions": {task: one.source for task, one in self.questions.items()},
        }


def read_materials(
    *, documents: Path | None = None, squad: Path | None = None, hotpotqa: Path | None = None
) -> Materials:
    """From files; ``documents`` None is the shipped collection.

    Documents without headers serve as haystack, and there are no questions about them then. Raises ``UsageError`` and
    ``FormatError`` for files.
    """
    haystack = read_haystack(documents)
    questions: dict[str, QuestionSet] = {}
    with suppress(InvalidParameter):
        questions |= document_questions(haystack)
    if squad is not None:
        questions["qa_1"] = read_squad(squad)
    if hotpotqa is not None:
        questions["qa_2"] = read_hotpotqa(hotpotqa)
    return Materials(haystack=haystack, questions=questions)


def listed(parts: list[str]) -> str:
    """``a``; ``a and b``; ``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
