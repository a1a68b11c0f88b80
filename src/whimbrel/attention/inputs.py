"""What a forward pass knows about the sequences in it, and what it may ask of their cache.

Shapes: T query tokens of S sequences in one flat batch, H query heads, G key/value heads, D head_dim.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

BLOCK_SIZE = 64
"""Tokens per block: the page of the cache, the unit of selection, the passage shown to the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionInputs:
    """The T tokens of one step, S sequences after each other.

    Sequence ``s`` owns rows ``cu_seqlens[s] : cu_seqlens[s + 1]``; after this step its cache holds
    ``kv_lengths[s]`` tokens, the last of which are these rows: row ``i`` of it has position
    ``kv_lengths[s] - rows + i`` and sees every key at or before its own position.
    """

    token_ids: npt.NDArray[np.int32]
    """[T]"""
    positions: npt.NDArray[np.int32]
    """[T] absolute position of each token, for the rotary embedding"""
    cu_seqlens: npt.NDArray[np.int32]
    """[S + 1] first row of each sequence, and T"""
    kv_lengths: npt.NDArray[np.int32]
    """[S] tokens in the cache after this step"""
    block_tables: npt.NDArray[np.int32]
    """[S, max_blocks] physical block of each logical block; unused entries are -1"""
    tree_masks: npt.NDArray[np.uint64] | None = None
    """[T] where a sequence's rows are a tree of drafts (at most 64 rows): bit j of row i is set if row i sees row j of
    its sequence. Every row sees all tokens before this step's."""
    block_mass: npt.NDArray[np.float32] | None = None
    """[S, G, max_blocks] where somebody asked what is read: ``attend`` adds the probability mass that the query heads of
    a decoding row (one row of its sequence in this step) give to each block"""


class KVView(Protocol):
    """A cache as the ops see it. Implemented by the engine's paged cache and by the dense one of tests and training."""

    def write(self, layer: int, keys: Any, values: Any, inputs: AttentionInputs) -> None:
        """Store keys and values ``[T, G, D]`` of this step's tokens for one layer."""
        ...

    def read(self, layer: int, sequence: int, inputs: AttentionInputs) -> tuple[Any, Any]:
        """Keys and values ``[kv_lengths[sequence], G, D]`` of one sequence, this step's included."""
        ...

    def write_kernels(self, layer: int, sequence: int, first: int, kernels: Any, inputs: AttentionInputs) -> None:
        """Store the semantic kernels ``first`` and following, ``[n, G, D]``, of one sequence."""
        ...

    def read_kernels(self, layer: int, sequence: int, count: int, inputs: AttentionInputs) -> Any:
        """The first ``count`` semantic kernels ``[count, G, D]`` of one sequence."""
        ...

    @property
    def num_key_value_heads(self) -> int:
        """G"""
        ...

    @property
    def head_dim(self) -> int:
        """D"""
        ...

    @property
    def pool(self) -> Any:
        """The native kernels' handle of the blocks (``_native.KVPool``), or None where there is none."""
        ...
