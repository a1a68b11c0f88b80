"""The paged cache: which blocks each sequence holds, what it may share, and the ops' view of it.

Shapes: S sequences, G key/value heads, D head_dim. ``tables`` [max_sequences, max_blocks] int32 has one row for each
running sequence, -1 where it holds no block; a row is handed to the kernels as it is.

Blocks that are shared, or whose contents others may find, are never written: ``admit`` and ``rollback`` copy such a
block first if its sequence is going to write in it (copy-on-write), so that writing needs no check.
"""

from typing import Any

import numpy as np

from whimbrel.attention.inputs import BLOCK_SIZE, AttentionInputs
from whimbrel.engine.blocks import ROOT, BlockPool, block_key, blocks_for
from whimbrel.engine.request import Sequence
from whimbrel.engine.store import Store

NO_REUSE = "every prompt token was read anew: prefix sharing is off, or prompt log-probabilities were asked for"


class PagedCache:
    """Blocks of all running sequences. Implements ``attention.KVView``."""

    def __init__(self, store: Store, *, num_blocks: int, max_sequences: int, max_blocks: int) -> None:
        """``max_blocks`` is the most that one sequence holds."""
        self.blocks = BlockPool(num_blocks, group=store.group)
        self.tables = np.full((max_sequences, max_blocks), -1, np.int32)
        self.num_key_value_heads = store.num_key_value_heads
        self.head_dim = store.head_dim
        self.pool = store.pool
        """``_native.KVPool``, or None for the reference ops"""
        self._store = store
        self._slots = list(range(max_sequences - 1, -1, -1))

    # --- attention.KVView

    def write(self, layer: int, keys: Any, values: Any, inputs: AttentionInputs) -> None:
        """Store keys and values [T, G, D] of this step's tokens (reference ops only)."""
        self._store.write(layer, keys, values, inputs)

    def read(self, layer: int, sequence: int, inputs: AttentionInputs) -> tuple[Any, Any]:
        """Keys and values [kv_lengths[sequence], G, D] of one sequence (reference ops only)."""
        return self._store.read(layer, sequence, inputs)

    def write_kernels(self, layer: int, sequence: int, first: int, kernels: Any, inputs: AttentionInputs) -> None:
        """Store semantic kernels [n, G, D] from number ``first`` on (reference ops only)."""
        self._store.write_kernels(layer, sequence, first, kernels, inputs)

    def read_kernels(self, layer: int, sequence: int, count: int, inputs: AttentionInputs) -> Any:
        """The first ``count`` semantic kernels [count, G, D] of one sequence (reference ops only)."""
        return self._store.read_kernels(layer, sequence, count, inputs)

    # --- a sequence's life

    def admit(self, sequence: Sequence, *, reuse: bool = True, leave: int = 0) -> bool:
        """Give the sequence a row and blocks for all its tokens, shared as far as known.

        False, and nothing changes, if there are too few, or less than ``leave`` would be left for others.
        Sets ``computed`` and ``cached`` to the tokens that were found, and ``miss`` to why there were no more. One
        token is always left, because the network must run to give logits.
        """
        shared, keys, partial, miss = self._match(sequence) if reuse else ([], [], None, NO_REUSE)
        wanted = blocks_for(len(sequence.tokens)) - len(shared)
        idle = sum(self.blocks.is_idle(block) for block in shared)
        if not self._slots or wanted + leave > self.blocks.available - idle:
            return False
        for block in shared:
            self.blocks.share(block)
        sequence.blocks, sequence.hashes = shared, keys
        sequence.computed = len(shared) * BLOCK_SIZE
        if partial is not None:
            self._adopt(sequence, *partial, spare=self.blocks.available - wanted)
        if not sequence.preempted:
            # what a grammar forces behind the prompt may be found too, but is no prompt
            sequence.cached, sequence.miss = min(sequence.computed, sequence.prompt_length), miss
        sequence.slot = self._slots.pop()
        self.tables[sequence.slot, : len(sequence.blocks)] = sequence.blocks
        complete = self.reserve(sequence, len(sequence.tokens))
        assert complete, "blocks were counted"
        return True

    def reserve(self, sequence: Sequence, length: int) -> bool:
        """Make sure that the sequence has blocks for ``length`` tokens; False if there are too few."""
        while len(sequence.blocks) * BLOCK_SIZE < length:
            block = self.blocks.allocate(len(sequence.blocks), sequence.blocks[-1] if sequence.blocks else None)
            if block is None:
                return False
            self.tables[sequence.slot, len(sequence.blocks)] = block
            sequence.blocks.append(block)
        return True

    def commit(self, sequence: Sequence) -> None:
        """Make the blocks that ``computed`` has filled known to other sequences."""
        while (len(sequence.hashes) + 1) * BLOCK_SIZE <= sequence.computed:
            index = len(sequence.hashes)
            parent = sequence.hashes[-1] if index else ROOT
            ids = sequence.tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
            key = block_key(parent, ids)
            sequence.hashes.append(key)
            if self.blocks.find(key) is None:
                self.blocks.register(sequence.blocks[index], parent, ids, key)
            else:
                self._use_instead(sequence, index, self.blocks.find(key))

    def count_pinned(self, ids: tuple[int, ...]) -> int:
        """How many blocks at the beginning of ``ids`` lie outside of the cache."""
        count, parent = 0, ROOT
        while (count + 1) * BLOCK_SIZE < len(ids):
            parent = block_key(parent, ids[count * BLOCK_SIZE : (count + 1) * BLOCK_SIZE])
            block = self.blocks.find(parent)
            if block is None or not self.blocks.is_pinned(block):
                break
            count += 1
        return count

    def rollback(self, sequence: Sequence, length: int) -> int:
        """Forget computed tokens from ``length`` on; returns how many are still computed.

        That is ``length``, or the start of its block where the block is shared and there is none free for a copy.
        """
        assert 0 <= length <= sequence.computed
        keep = blocks_for(length)
        self._drop(sequence, keep)
        del sequence.hashes[length // BLOCK_SIZE :]
        if length % BLOCK_SIZE and not self._own(sequence, keep - 1):
            self._drop(sequence, keep - 1)
            length = (keep - 1) * BLOCK_SIZE
        sequence.computed = length
        return length

    def release(self, sequence: Sequence) -> None:
        """Take the sequence's row and blocks back; what was computed stays known while the blocks last."""
        full = len(sequence.hashes)
        rest = sequence.tokens[full * BLOCK_SIZE : sequence.computed]
        if rest:
            parent = sequence.hashes[-1] if full else ROOT
            known = self.blocks.find_partial(parent, rest)
            if known is None or known[1] < len(rest):
                self.blocks.register(sequence.blocks[full], parent, rest)
        self._drop(sequence, 0)
        self._slots.append(sequence.slot)
        sequence.slot = -1
        sequence.computed = 0
        sequence.hashes = []

    # --- inside

    def _match(self, sequence: Sequence) -> tuple[list[int], list[bytes], tuple[int, int] | None, str | None]:
        """Full blocks to share with their keys, (block, tokens) that agrees in part, and why there is no more."""
        limit = len(sequence.tokens) - 1
        shared: list[int] = []
        keys: list[bytes] = []
        parent, key = ROOT, None
        while (len(shared) + 1) * BLOCK_SIZE <= limit:
            start = len(shared) * BLOCK_SIZE
            key = block_key(parent, sequence.tokens[start : start + BLOCK_SIZE])
            block = self.blocks.find(key)
            if block is None:
                break
            shared.append(block)
            keys.append(key)
            parent, key = key, None
        start = len(shared) * BLOCK_SIZE
        partial = self.blocks.find_partial(parent, sequence.tokens[start : min(start + BLOCK_SIZE, limit)])
        common = partial[1] if partial else 0
        miss = None if start + common == limit else self.blocks.why_missing(parent, key, start, common)
        return shared, keys, partial, miss

    def _adopt(self, sequence: Sequence, source: int, common: int, *, spare: int) -> None:
        """Begin the sequence's next block with ``common`` tokens of ``source``: in place if it is idle and needed."""
        contents = self.blocks.contents(source)
        assert contents is not None
        if self.blocks.is_idle(source) and (common == len(contents.ids) or spare < 1):
            self.blocks.share(source)
            self.blocks.forget(source)
            target = source
        else:
            self.blocks.share(source)
            copy = self.blocks.allocate(len(sequence.blocks), sequence.blocks[-1] if sequence.blocks else None)
            assert copy is not None, "blocks were counted"
            self._store.copy(source, copy)
            self.blocks.release(source)
            target = copy
        sequence.blocks.append(target)
        sequence.computed += common

    def _own(self, sequence: Sequence, index: int) -> bool:
        """Make block ``index`` the sequence's alone, to be written; False if that needs a copy and there is no room."""
        block = sequence.blocks[index]
        if not self.blocks.is_shared(block):
            self.blocks.forget(block)
            return True
        copy = self.blocks.allocate(index, sequence.blocks[index - 1] if index else None)
        if copy is None:
            return False
        self._store.copy(block, copy)
        self.blocks.release(block)
        sequence.blocks[index] = copy
        self.tables[sequence.slot, index] = copy
        return True

    def _use_instead(self, sequence: Sequence, index: int, block: int | None) -> None:
        """Two sequences computed the same block: keep the one that is known already."""
        assert block is not None
        self.blocks.share(block)
        self.blocks.release(sequence.blocks[index])
        sequence.blocks[index] = block
        self.tables[sequence.slot, index] = block

    def _drop(self, sequence: Sequence, keep: int) -> None:
        """Release all blocks but the first ``keep``, the last one first, so that the ends of prefixes go first."""
        while len(sequence.blocks) > keep:
            self.blocks.release(sequence.blocks.pop())
            self.tables[sequence.slot, len(sequence.blocks)] = -1
