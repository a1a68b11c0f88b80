"""Who runs in the next step: continuous batching, chunked prefill, preemption.

Every running sequence takes part in every step. Those that decode bring one token. Those that still read their prompt
share ``prefill_chunk`` tokens: the shortest rest first, each at most an equal part of what is left, so that a short
prompt doesn't wait for a long one. Where a step has a time limit they share that too, since tokens far back in a long
prompt take many times as long as others (``pace``). A waiting sequence is admitted, first come first served, when a row and blocks for
all its tokens, and one more for everyone who runs, are free; one whose beginning is just being read by another waits until it can share that. When a decoding sequence needs a block and there is none, the one admitted last gives its
blocks back and waits, first in line; its tokens are kept and read again later.
"""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from time import perf_counter

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.engine.cache import PagedCache
from whimbrel.engine.pace import Load, Pace
from whimbrel.engine.request import Sequence

QUANTUM = 16
"""Prompt tokens are read in multiples of this, where a step's time is limited; the shortest rest gets at least so many."""
FIRST_TOKENS = 64
"""Prompt tokens of the first step of all, when nothing is known yet about the machine."""


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

    load: Load | None = None
    """of a step that is worth measuring, where the scheduler wants to know how long it takes"""

    @property
    def num_tokens(self) -> int:
        """Rows of the batch."""
        return sum(work.count for work in self.works)


class Scheduler:
    """The queues of waiting and running sequences."""

    def __init__(
        self,
        cache: PagedCache,
        *,
        prefill_chunk: int,
        prefix_sharing: bool = True,
        step_seconds: float | None = None,
        pace: Pace | None = None,
    ) -> None:
        """``prefill_chunk`` is the most prompt tokens of one step, of all sequences together.

        ``step_seconds`` limits them further, to what ``pace`` expects to be read in that time. None: no such limit.
        """
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._cache = cache
        self._prefill_chunk = prefill_chunk
        self._prefix_sharing = prefix_sharing
        self._step_seconds = step_seconds
        self._pace = pace

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
        return StepPlan(works, self._load_of(works))

    def note(self, plan: StepPlan, seconds: float) -> None:
        """A step took so long."""
        if self._pace is not None and plan.load is not None:
            self._pace.learn(plan.load, seconds)

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
            reuse = self._prefix_sharing and not sequence.needs_hidden
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
        if self._step_seconds is not None and self._pace is not None:
            return self._share_seconds(works, readers, self._step_seconds, self._pace)
        budget = self._prefill_chunk
        for index, sequence in enumerate(readers):
            count = min(sequence.remaining, budget // (len(readers) - index))
            if count:
                works.append(Work(sequence, count))
                budget -= count
        return None

    def _share_seconds(self, works: list[Work], readers: list[Sequence], seconds: float, pace: Pace) -> None:
        """Divide the chunk, and the time that decoding leaves, among those that read.

        A rest of a few tokens is read whole: it is a question after a long history, or what a grammar forces.
        """
        budget = self._prefill_chunk if pace.is_known else min(self._prefill_chunk, FIRST_TOKENS)
        seconds -= sum(pace.seconds(_load(work.sequence, 1, pace)) for work in works)
        for index, sequence in enumerate(readers):
            others = len(readers) - index
            count = most = min(sequence.remaining, budget // others)
            if pace.is_known and sequence.remaining > QUANTUM:
                count = max(_fitting(sequence, most, seconds / others, pace), min(QUANTUM, most) if index == 0 else 0)
            if count:
                works.append(Work(sequence, count))
                budget -= count
                seconds -= pace.seconds(_load(sequence, count, pace))

    def _load_of(self, works: list[Work]) -> Load | None:
        """Decoding alone says little about reading, so it isn't measured."""
        if self._pace is None or sum(work.count for work in works if work.count > 1) < QUANTUM:
            return None
        pace = self._pace
        return sum((_load(work.sequence, work.count, pace) for work in works), Load())


def _load(sequence: Sequence, count: int, pace: Pace) -> Load:
    return pace.load(sequence.computed, sequence.computed + count)


def _fitting(sequence: Sequence, most: int, seconds: float, pace: Pace) -> int:
    """How many of the next ``most`` tokens can be read in the time: its whole rest, or a multiple of the quantum."""
    if most == sequence.remaining and pace.seconds(_load(sequence, most, pace)) <= seconds:
        return most
    quanta = range(most // QUANTUM + 1)
    too_many = bisect_right(quanta, seconds, key=lambda n: pace.seconds(_load(sequence, n * QUANTUM, pace)))
    return max(too_many - 1, 0) * QUANTUM


def _is_reading_for(reader: Sequence, sequence: Sequence) -> bool:
    """True if the reader has yet to read blocks that the sequence begins with too: they will be in the cache soon."""
    if reader.remaining <= 1:
        return False
    start = reader.computed // BLOCK_SIZE * BLOCK_SIZE
    end = start + BLOCK_SIZE
    if end > min(len(reader.tokens), len(sequence.tokens) - 1):
        return False
    return reader.tokens[:end] == sequence.tokens[:end]
