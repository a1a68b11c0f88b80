"""Task: what is asked, what is expected, how an answer is scored.

A task makes *items*, each with a name and a recipe for its *question*; the question is built only when it is asked, for
a prompt of 128K tokens takes seconds to cut to length. All randomness comes from ``seeded``, seeded by the item's name: an
item is the same whether or not the ones before it were made.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Scorer = Callable[[str, Sequence[str]], float]
"""answer of the model, expected answers -> 0 ... 1"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One prompt, ready to be asked."""

    token_ids: tuple[int, ...]
    answers: tuple[str, ...]
    """what is expected; which of them must be there is the scorer's matter"""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """what a record shows beside the answer: depth, key, number of documents, ..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question of a task at one length."""

    id: str
    """unique in a run: ``ruler/vt/4096/3``"""
    task: str
    length: int
    """tokens that were asked for"""
    max_tokens: int
    """longest answer"""
    score: Scorer
    make: Callable[[], Question]


def seeded(*names: object) -> random.Random:
    """Randomness for one thing (a seed, an item, a part of it); the same on every machine."""
    return random.Random("/".join(str(name) for name in names))


def every(answer: str, expected: Sequence[str]) -> float:
    """The share of expected texts that the answer has, letters of either case (RULER's ``string_match_all``)."""
    return sum(text.lower() in answer.lower() for text in expected) / len(expected)


def any_of(answer: str, expected: Sequence[str]) -> float:
    """1 if the answer has one of the expected texts, else 0 (RULER's ``string_match_part``)."""
    return float(any(text.lower() in answer.lower() for text in expected))
