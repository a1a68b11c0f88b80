"""What keeps an answer in a shape, in token ids: protocols that the engine speaks and ``backends.grammar`` implements.

A ``Grammar`` is compiled once and used by many requests; each sequence gets a ``Matcher`` of its own, which follows the
answer. Before a token is chosen the matcher makes impossible ones -inf; where only one continuation exists, ``forced``
names it, and nothing has to be computed. Text, schemas and the like are known one level above.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]
"""Logits [V] of one sequence; V is the network's, which may be more than the tokenizer's vocabulary"""


class Matcher(Protocol):
    """Follows one answer. Its methods raise ``WhimbrelError`` where a limit is hit; that ends this sequence only."""

    def mask(self, logits: Row) -> None:
        """Make every id that can't come next -inf, in place; an id that ends the answer may come only at an end."""
        ...

    def advance(self, token_ids: Sequence[int]) -> None:
        """The answer goes on with these ids. Raises ``WhimbrelError`` for an id that can't come."""
        ...

    def forced(self) -> tuple[int, ...]:
        """The ids that must come now, the ending id included where the answer can only end; () where there is a choice.

        They aren't part of the answer before ``advance`` gets them.
        """
        ...

    def rollback(self, count: int) -> None:
        """Take back the last ``count`` ids that ``advance`` got: a draft that wasn't accepted."""
        ...

    @property
    def is_complete(self) -> bool:
        """True once an ending id has come: nothing follows."""
        ...


@runtime_checkable
class Grammar(Protocol):
    """A compiled shape; immutable, shared by threads and requests."""

    def start(self) -> Matcher:
        """A matcher at the beginning of an answer."""
        ...


class Constraint:
    """One sequence's matcher, kept in step with the ids of its answer.

    ``at`` is how many ids the answer has. A step may be repeated (Ctrl-C left it early), so a matcher that has gone on
    before its sequence did is taken back first.
    """

    __slots__ = ("_followed", "_matcher", "_run", "_run_at")

    def __init__(self, matcher: Matcher) -> None:
        """The matcher is at the beginning of the answer."""
        self._matcher = matcher
        self._followed = 0
        self._run: tuple[int, ...] = ()  # the ids that were forced when the answer had ``_run_at``
        self._run_at = 0

    def forced(self, at: int) -> tuple[int, ...]:
        """The ids that must come now. A run is decided once: its rest is the same while it is written id by id."""
        self._take_back(at)
        if not self._run_at <= at < self._run_at + len(self._run):
            self._run, self._run_at = self._matcher.forced(), at
        return self._run[at - self._run_at :]

    def mask(self, logits: Row, at: int) -> None:
        """Make impossible ids -inf, in place."""
        self._take_back(at)
        self._matcher.mask(logits)

    def advance(self, token_ids: Sequence[int]) -> None:
        """The answer goes on with these ids, from where ``forced`` or ``mask`` was asked last."""
        self._matcher.advance(token_ids)
        self._followed += len(token_ids)

    def is_complete(self, at: int) -> bool:
        """True if the last of the answer's ids is one that ends it."""
        return self._followed == at and self._matcher.is_complete

    def _take_back(self, at: int) -> None:
        if self._followed > at:
            self._matcher.rollback(self._followed - at)
            self._followed = at
            self._run = ()
