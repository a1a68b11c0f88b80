"""How many keys the queries of a sequence could see, and how many they attended to: counted from positions alone.

A query at position p sees p + 1 keys. Where it is sparse, it attends to ``num_blocks`` blocks: every key/value head
chooses so many, the query's own among them, and all but that one are full.
"""

from dataclasses import dataclass

from whimbrel.attention.sparse import SparseConfig


@dataclass(frozen=True, slots=True)
class KeyCount:
    """Keys per head and layer, summed over queries."""

    visible: int = 0
    attended: int = 0

    @property
    def sparsity(self) -> float:
        """The share of visible keys that was not attended to; 0 where there were none."""
        return 1 - self.attended / self.visible if self.visible else 0.0

    def __add__(self, other: "KeyCount") -> "KeyCount":
        return KeyCount(self.visible + other.visible, self.attended + other.attended)

    def __sub__(self, other: "KeyCount") -> "KeyCount":
        return KeyCount(self.visible - other.visible, self.attended - other.attended)


def count_keys(start: int, stop: int, sparse: SparseConfig | None) -> KeyCount:
    """Of the queries at positions ``start`` to ``stop - 1``. Exact, in constant time."""
    visible = _triangle(stop) - _triangle(start)
    first = stop if sparse is None else min(max(start, first_sparse_position(sparse)), stop)
    attended = _triangle(first) - _triangle(start)
    if sparse is not None and first < stop:
        size = sparse.block_size
        attended += (sparse.num_blocks - 1) * size * (stop - first) + _own(stop, size) - _own(first, size)
    return KeyCount(visible, attended)


def first_sparse_position(sparse: SparseConfig) -> int:
    """The first position whose query leaves keys out."""
    return max(sparse.dense_len - 1, sparse.num_blocks * sparse.block_size)


def _triangle(stop: int) -> int:
    """Sum of p + 1 for p < stop."""
    return stop * (stop + 1) // 2


def _own(stop: int, size: int) -> int:
    """Sum over p < stop of the keys that a query's own block has up to it: p % size + 1."""
    return stop // size * _triangle(size) + _triangle(stop % size)
