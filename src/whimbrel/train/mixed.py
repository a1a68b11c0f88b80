"""Batches of mixed lengths: every step sees as many rows of short documents as of each class of longer ones.

The long-context stage of MiniCPM4 mixes documents of 0-4k, 4-12k, 12-24k and 24-32k tokens 1:1:1:1, so that a model that
learns to read far does not unlearn to read what is near.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from whimbrel.errors import InvalidParameter
from whimbrel.train.batches import Batch, Batches, Shards, as_readers
from whimbrel.train.recipe import BatchShape


class Mixed:
    """Several ``Batches``, whose batches of a step are put after each other."""

    def __init__(self, parts: Sequence[Batches]) -> None:
        """All of one vocabulary."""
        self.parts = list(parts)
        self.vocab_size, self.vocabulary = self.parts[0].vocab_size, self.parts[0].vocabulary

    @property
    def tokens_per_step(self) -> float:
        """On average."""
        return sum(part.tokens_per_epoch / part.steps_per_epoch for part in self.parts)

    def batch(self, step: int) -> Batch:
        """The batch of a step; each part goes through its own epochs."""
        batches = [part.batch(step) for part in self.parts]
        offsets = np.cumsum([0, *(len(batch.token_ids) for batch in batches)])
        bounds = [batch.cu_seqlens[1:] + offset for batch, offset in zip(batches, offsets[:-1], strict=True)]
        return Batch(
            np.concatenate([batch.token_ids for batch in batches]),
            np.concatenate([batch.targets for batch in batches]),
            np.concatenate([batch.positions for batch in batches]),
            np.concatenate([[0], *bounds]).astype(np.int32),
        )


def open_batches(shards: Shards, shape: BatchShape, seed: int) -> Mixed:
    """The batches of a recipe. Raises InvalidParameter where a class has too few documents; it is named."""
    readers, classes = as_readers(shards), list(pairwise((0, *shape.bounds, shape.sequence)))
    parts = []
    for shortest, longest in classes:
        longest_document = None if longest == shape.sequence else longest  # longer ones are cut, and belong to the last
        rows, lengths = shape.rows // len(classes), (shortest, longest_document)
        try:
            part = Batches(readers, sequence=longest, rows=rows, seed=seed, lengths=lengths)
        except InvalidParameter as error:
            raise InvalidParameter(f"documents of {shortest} to {longest} tokens: {error}") from None
        parts.append(part)
    return Mixed(parts)
