"""Attended keys: which share of the keys before it a token looks at, and so the sparsity of an evaluation.

How many keys a query attends follows from its position and the constants alone (each layer and KV head may attend other
blocks, but as many): all of them where it sees fewer than ``dense_len``, else its own block up to itself and
``num_blocks - 1`` whole ones. So this is computed, exactly, from lengths and configuration.
"""

from dataclasses import dataclass

import numpy as np

from whimbrel.attention.sparse import SparseConfig


@dataclass(frozen=True, slots=True)
class Attended:
    """Keys of one KV head and layer, summed over queries."""

    attended: int
    causal: int
    """keys at or before the queries: what dense attention attends"""

    @property
    def sparsity(self) -> float:
        """Share of keys not attended; 0 is dense."""
        return 1 - self.attended / self.causal if self.causal else 0.0

    def __add__(self, other: "Attended") -> "Attended":
        return Attended(self.attended + other.attended, self.causal + other.causal)


def attended(sparse: SparseConfig | None, first: int, last: int) -> Attended:
    """Keys that the queries at positions ``first ... last - 1`` attend; ``sparse`` None is dense attention."""
    positions = np.arange(first, last, dtype=np.int64)
    causal = int((positions + 1).sum())
    if sparse is None:
        return Attended(causal, causal)
    block = sparse.block_size
    is_sparse = (positions + 1 >= sparse.dense_len) & (positions // block + 1 > sparse.num_blocks)
    listed = (sparse.num_blocks - 1) * block + positions % block + 1
    return Attended(int(np.where(is_sparse, listed, positions + 1).sum()), causal)
