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
