"""Probe: a table of ops that watches what block selection would keep, while the model attends to everything.

It stands between a decoder and the ops that were bound for it, whichever those are. For each row that is alone in its
sequence (decoding) the lists of ``select_blocks`` are kept instead of used, and ``attend`` is asked for the probability
mass of every block in that layer. So lists and masses belong to the same queries and keys, those of the dense model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.attention.inputs import AttentionInputs
from whimbrel.attention.sparse import SparseConfig
from whimbrel.ops.table import OpTable


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One query token in one layer. Shapes: G key/value heads, b blocks of its sequence, K places of a list."""

    layer: int
    position: int
    mass: npt.NDArray[np.float32]
    """[G, b] probability of each block, summed over the query heads that share a key/value head"""
    lists: npt.NDArray[np.int32]
    """[G, K] blocks that the selection keeps, -1 behind the last"""
    sparse: SparseConfig


class Probe:
    """Collects observations; one probe watches one model."""

    def __init__(self) -> None:
        self._observations: list[Observation] = []
        self._pending: dict[int, tuple[Any, SparseConfig]] = {}  # layer -> what was selected and not yet attended

    def table(self, ops: OpTable) -> OpTable:
        """``ops``, watched. It attends to everything, whatever is selected."""
        return replace(ops, select_blocks=self._select(ops.select_blocks), attend=self._attend(ops.attend))

    def take(self) -> list[Observation]:
        """What was seen since the last call."""
        seen, self._observations = self._observations, []
        return seen

    def _select(self, run: Callable[..., Any]) -> Callable[..., None]:
        def select_blocks(q: Any, inputs: AttentionInputs, cache: Any, layer: int, **options: Any) -> None:
            self._pending.pop(layer, None)
            if len(inputs.positions) != len(inputs.kv_lengths):
                return  # part of a prompt: nobody is told the mass of its rows
            lists = run(q, inputs, cache, layer, **options)
            if lists is not None:
                self._pending[layer] = np.asarray(lists).astype(np.int32), options["sparse"]

        return select_blocks

    def _attend(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def attend(q: Any, inputs: AttentionInputs, cache: Any, layer: int, **options: Any) -> Any:
            if layer not in self._pending:
                return run(q, inputs, cache, layer, **options)
            sequences, blocks = inputs.block_tables.shape
            mass = np.zeros((sequences, cache.num_key_value_heads, blocks), np.float32)
            out = run(q, replace(inputs, block_mass=mass), cache, layer, **options)
            self._observations += self._read(layer, inputs, mass)
            return out

        return attend

    def _read(self, layer: int, inputs: AttentionInputs, mass: npt.NDArray[np.float32]) -> Iterator[Observation]:
        lists, sparse = self._pending.pop(layer)
        for row, length in enumerate(inputs.kv_lengths.tolist()):
            if (lists[:, row] >= 0).any():  # an empty list: this row sees everything anyway
                seen = mass[row, :, : -(-length // sparse.block_size)]
                yield Observation(layer, length - 1, seen, lists[:, row], sparse)
