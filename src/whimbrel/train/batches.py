"""Batches of packed documents: which tokens a step sees, as a function of the step's number alone.

Documents are cut into pieces of at most ``sequence`` inputs, and pieces are packed whole into rows of that size, the
longest first, each into the fullest row that has room (best-fit decreasing: Ding et al. 2024, Fewer Truncations Improve
Language Modeling). Attention stays inside a piece (``cu_seqlens``), positions count from its document's cut. A piece's
last target is the token behind it, so that a cut loses no prediction. Rows are shuffled by seed and epoch.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from whimbrel.errors import InvalidParameter
from whimbrel.formats.shards import ShardReader, open_shards

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

IGNORED = -100
"""The target of a token whose successor nobody should learn, as torch's cross entropy has it."""

Shards = str | Path | Iterable[str | Path] | Sequence[ShardReader]


@dataclass(frozen=True, slots=True)
class Batch:
    """T tokens of S pieces after each other; there is no padding."""

    token_ids: Int32
    """[T]"""
    targets: Int64
    """[T] the token after each, or ``IGNORED``"""
    positions: Int32
    """[T] counted from the beginning of each piece"""
    cu_seqlens: Int32
    """[S + 1] the first token of each piece, and T"""

    @property
    def learned(self) -> int:
        """Tokens that count in the loss."""
        return int((self.targets != IGNORED).sum())

    def split(self, parts: int) -> list["Batch"]:
        """At most ``parts`` batches of whole pieces and nearly equal size, for gradient accumulation."""
        total, bounds = len(self.token_ids), self.cu_seqlens
        cuts = {int(np.abs(bounds - total * part / parts).argmin()) for part in range(parts + 1)}
        edges = sorted(cuts)
        return [self._pieces(first, end) for first, end in pairwise(edges)]

    def _pieces(self, first: int, end: int) -> "Batch":
        a, b = int(self.cu_seqlens[first]), int(self.cu_seqlens[end])
        bounds = self.cu_seqlens[first : end + 1] - self.cu_seqlens[first]
        return Batch(self.token_ids[a:b], self.targets[a:b], self.positions[a:b], bounds)


class Batches:
    """Batches of ``rows`` rows of up to ``sequence`` tokens from token shards; ``batch(step)`` is what step ``step`` sees."""

    def __init__(
        self, shards: Shards, *, sequence: int, rows: int, seed: int = 0, lengths: tuple[int, int | None] = (0, None)
    ) -> None:
        """``lengths``: only documents of more inputs than the first, and at most as many as the second.

        Raises InvalidParameter for sizes below 1 and for fewer rows in the shards than one batch needs."""
        if min(sequence, rows) < 1:
            raise InvalidParameter(f"sequence {sequence} and rows {rows} must be at least 1")
        self.sequence, self.rows, self.seed = sequence, rows, seed
        self.shards = as_readers(shards)
        self._pieces = _cut(self.shards, sequence, lengths)
        self._epoch, self._plan = -1, list[Int64]()
        self._enter(0)
        self.row_count = len(self._plan)
        """rows of an epoch, the same in every one"""
        if self.row_count < rows:
            raise InvalidParameter(
                f"the shards fill {self.row_count} rows of {sequence} tokens, a batch needs {rows}: "
                "give more text, or make the batch or the sequence smaller"
            )

    @property
    def vocab_size(self) -> int:
        """Of the shards."""
        return self.shards[0].header.vocab_size

    @property
    def vocabulary(self) -> str:
        """Fingerprint of the shards' tokenizer."""
        return self.shards[0].header.vocabulary

    @property
    def steps_per_epoch(self) -> float:
        """Batches until every row was seen once; a batch may reach into the next epoch."""
        return self.row_count / self.rows

    @property
    def tokens_per_epoch(self) -> int:
        """Inputs of all pieces."""
        return int(self._pieces[:, 2].sum())

    @property
    def waste(self) -> float:
        """The share of the rows' room that stays empty."""
        return 1 - self.tokens_per_epoch / (self.row_count * self.sequence)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0; nothing has to be read before it."""
        rows: list[Int64] = []
        for row in range(step * self.rows, (step + 1) * self.rows):
            self._enter(row // self.row_count if self._plan else 0)
            rows.append(self._plan[row % len(self._plan)])
        return self._read(self._pieces[np.concatenate(rows)])

    def _enter(self, epoch: int) -> None:
        """Pack and shuffle an epoch's rows. Which pieces share a row differs from epoch to epoch, their number does not."""
        if epoch == self._epoch:
            return
        rng = np.random.default_rng((self.seed, epoch))
        rows = pack(self._pieces[:, 2], self.sequence, rng)
        self._plan, self._epoch = [rows[i] for i in rng.permutation(len(rows))], epoch

    def _read(self, pieces: Int64) -> Batch:
        ids, targets, positions = [], [], []
        for shard_index, first, length in pieces.tolist():
            inputs, outputs = ids_and_targets(self.shards[shard_index], first, length)
            ids.append(inputs)
            targets.append(outputs)
            positions.append(np.arange(length, dtype=np.int32))
        bounds = np.concatenate([[0], np.cumsum(pieces[:, 2])]).astype(np.int32)
        return Batch(np.concatenate(ids), np.concatenate(targets), np.concatenate(positions), bounds)


def ids_and_targets(shard: ShardReader, first: int, length: int) -> tuple[Int32, Int64]:
    """``length`` inputs from a shard's token ``first`` on, and the token after each, ``IGNORED`` where marks say so."""
    targets = shard.tokens[first + 1 : first + length + 1].astype(np.int64)
    if shard.marks is not None:
        targets[shard.marks[first + 1 : first + length + 1] == 0] = IGNORED
    return shard.tokens[first : first + length].astype(np.int32), targets


def as_readers(shards: Shards) -> list[ShardReader]:
    """Shards that are open already as they are; folders and paths opened."""
    if not isinstance(shards, str | Path):
        items = list(shards)
        if items and all(isinstance(item, ShardReader) for item in items):
            return [item for item in items if isinstance(item, ShardReader)]
        return open_shards([item for item in items if not isinstance(item, ShardReader)])
    return open_shards(shards)


def pack(lengths: Int64, size: int, rng: np.random.Generator) -> list[Int64]:
    """Indices of pieces that share a row of ``size``: best-fit decreasing, equal lengths in random order."""
    order = rng.permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # room -> rows that have it
    rooms: list[int] = []  # the keys of open_rows, ascending
    for index, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        at = bisect_left(rooms, length)
        if at == len(rooms):
            row, room = len(rows), size
            rows.append([])
        else:
            room = rooms[at]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        rows[row].append(index)
        if left := room - length:
            if left not in open_rows:
                open_rows[left] = []
                rooms.insert(bisect_left(rooms, left), left)
            open_rows[left].append(row)
    return [np.array(row, np.int64) for row in rows]


def _cut(shards: Sequence[ShardReader], sequence: int, chosen: tuple[int, int | None]) -> Int64:
    """Pieces as (shard, first token, inputs), [pieces, 3]; a document of one token has nothing to predict."""
    parts = []
    for index, shard in enumerate(shards):
        lengths = shard.lengths()
        starts, inputs = shard.ends.astype(np.int64) - lengths, lengths - 1
        kept = (inputs > chosen[0]) & (inputs <= (chosen[1] or inputs.max()))
        starts, inputs = starts[kept], inputs[kept]
        counts = -(-inputs // sequence)
        document = np.repeat(np.arange(len(inputs)), counts)
        number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
        length = np.minimum(sequence, inputs[document] - number * sequence)
        parts.append(np.stack([np.full(len(document), index), starts[document] + number * sequence, length], 1))
    pieces = np.concatenate(parts).astype(np.int64)
    if not len(pieces):
        raise InvalidParameter("the shards hold no document of two tokens; there is nothing to predict")
    return pieces
