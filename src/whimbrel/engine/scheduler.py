"""Who runs in the next step: continuous batching, chunked prefill, preemption.

Every running sequence takes part in every step. Those that decode bring one token. Those that still read their prompt
share ``prefill_chunk`` tokens: the shortest rest first, each at most an equal part of what is left, so that a short
prompt doesn't wait for a long one. A waiting sequence is admitted, first come first served, when a row and blocks for
all its tokens, and one more for everyone who runs, are free; one whose beginning is just being read by another waits until it can share that. When a decoding sequence needs a block and there is none, the one admitted last gives its
blocks back and waits, first in line; its tokens are kept and read again later.
"""

from collections import deque
from dataclasses import dataclass
from time import perf_counter

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.engine.cache import PagedCache
from whimbrel.engine.request import Sequence


@dataclass(slots=True)
class Work:
    """One sequence's part in a step: the tokens from ``sequence.computed`` on, ``count`` of them."""

    sequence: Sequence
    count: int

    @property
    def reaches_end(self) -> bool:
        """True if this part ends with the sequence's last token, so that the next one can be chosen."""
        return self.count == self.sequence.remaining


@dataclass(slots=True)
class StepPlan:
    """What one step computes: rows of the batch in the order of ``works``."""

    works: list[Work]

    @property
    def num_tokens(self) -> int:
        """Rows of the batch."""
        return sum(work.count for work in self.works)


class Scheduler:
    """The queues of waiting and running sequences."""

    def __init__(self, cache: PagedCache, *, prefill_chunk: int, prefix_sharing: bool = True) -> None:
        """``prefill_chunk`` is the most prompt tokens of one step, of all sequences together."""
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._cache = cache
        self._prefill_chunk = prefill_chunk
        self._prefix_sharing = prefix_sharing

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the line."""
        self.waiting.append(sequence)

    def plan(self) -> StepPlan:
        """The next step. Empty only if nothing waits and nothing runs."""
        self._secure_blocks()
        if self.waiting:
            self._admit()
        works = [Work(sequence, 1) for sequence in self.running if sequence.remaining == 1]
        if len(works) < len(self.running):
            self._share_chunk(works)
        return StepPlan(works)

    def remove(self, sequence: Sequence) -> None:
        """Take a finished or aborted sequence out, and its blocks back."""
        if sequence.slot >= 0:
            self.running.remove(sequence)
            self._cache.release(sequence)
        else:
            self.waiting.remove(sequence)

    def _secure_blocks(self) -> None:
        """Blocks for the next token of everyone who runs, taken from those admitted last if need be."""
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            if self._cache.reserve(sequence, len(sequence.tokens)):
                index += 1
            else:
                self._preempt(self.running.pop())

    def _preempt(self, sequence: Sequence) -> None:
        assert self.running, "one sequence alone always fits"
        sequence.preempted += 1
        self.preemptions += 1
        self._cache.release(sequence)
        self.waiting.appendleft(sequence)

    def _admit(self) -> None:
        for sequence in list(self.waiting):
            needs_hidden = sequence.params.prompt_logprobs is not None and sequence.scored < sequence.prompt_length
            reuse = self._prefix_sharing and not needs_hidden
            if reuse and any(_is_reading_for(reader, sequence) for reader in self.running):
                continue
            if not self._cache.admit(sequence, reuse=reuse, leave=len(self.running)):
                assert self.running, "one sequence alone always fits"
                return
            self.waiting.remove(sequence)
            self.running.append(sequence)
            if sequence.started is None:
                sequence.started = perf_counter()

    def _share_chunk(self, works: list[Work]) -> None:
        """Divide the chunk among those that read."""
        readers = sorted((s for s in self.running if s.remaining > 1), key=lambda s: s.remaining)
        budget = self._prefill_chunk
        for index, sequence in enumerate(readers):
            count = min(sequence.remaining, budget // (len(readers) - index))
            if count:
                works.append(Work(sequence, count))
                budget -= count


def _is_reading_for(reader: Sequence, sequence: Sequence) -> bool:
    """True if the reader has yet to read blocks that the sequence begins with too: they will be in the cache soon."""
    if reader.remaining <= 1:
        return False
    start = reader.computed // BLOCK_SIZE * BLOCK_SIZE
    end = start + BLOCK_SIZE
    if end > min(len(reader.tokens), len(sequence.tokens) - 1):
        return False
    return reader.tokens[:end] == sequence.tokens[:end]
