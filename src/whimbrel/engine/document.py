"""DocumentBlocks: blocks of the cache out to a file that keeps what was read, and such a file's blocks into the cache.

A block is found by the hash of everything before it, so a document that is attached needs no machinery of its own: a
request that begins with the document's ids shares its blocks. They are pinned: mapped from disk, read-only, never given
away; whoever writes behind them does so in blocks of the cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.engine.blocks import ROOT, block_key
from whimbrel.engine.cache import PagedCache
from whimbrel.engine.mapped import MappedPages
from whimbrel.engine.moving import Mover
from whimbrel.errors import DoesNotFit, UnsupportedCapability, UsageError
from whimbrel.formats.kv_layout import Bytes, KVLayout, Scales
from whimbrel.models.config import ModelConfig
from whimbrel.models.fingerprint import fingerprint
from whimbrel.models.params import Params
from whimbrel.models.rope import RopeTable

ROPE_POSITIONS = 64
"""Positions whose angles stand for all: every frequency shows in them."""

Ids = npt.NDArray[np.int32]


@dataclass(slots=True)
class Attached:
    """A document's blocks in the cache."""

    first: int
    data: Bytes
    codes: Bytes
    scales: Bytes
    layout: KVLayout
    users: int = 1

    @property
    def count(self) -> int:
        """How many there are."""
        return self.layout.num_blocks


class DocumentBlocks:
    """What an engine's cache holds of documents that were read before."""

    def __init__(self, cache: PagedCache, config: ModelConfig, params: Params, rope: RopeTable, kv_dtype: str) -> None:
        """``rope`` is the table that the engine turns keys with."""
        self._cache = cache
        self._config = config
        self._params = params
        self._rope = rope
        self._kv_dtype = kv_dtype
        self._attached: dict[bytes, Attached] = {}
        self.pages = MappedPages()

    @cached_property
    def model_fingerprint(self) -> str:
        """See ``models.fingerprint``."""
        return fingerprint(self._config, self._params)

    @cached_property
    def format(self) -> dict[str, Any]:
        """Everything that keys, values and semantic kernels depend on beside the network, for JSON."""
        config, sparse = self._config, self._config.sparse
        rope = blake2b(digest_size=16)
        for table in (self._rope.cos, self._rope.sin):
            rope.update(np.ascontiguousarray(table[:ROPE_POSITIONS]).data)
        kernels = None
        if sparse is not None:
            kernels = {"size": sparse.kernel_size, "stride": sparse.kernel_stride, "use_nope": sparse.use_nope}
        return {
            "kv_dtype": self._kv_dtype,
            "layers": config.num_hidden_layers,
            "heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "block_size": BLOCK_SIZE,
            "kernels": kernels,
            "rope": rope.hexdigest(),
        }

    def layout(self, num_blocks: int) -> KVLayout:
        """Sizes of so many blocks. Raises ``UnsupportedCapability`` for an engine without native kernels."""
        pool = self._pool()
        rows = self._config.num_hidden_layers * self._config.num_key_value_heads if pool.kernel_dim else 0
        return KVLayout(
            num_blocks=num_blocks, block_bytes=pool.block_bytes, kernel_rows=rows, kernel_dim=pool.kernel_dim
        )

    def take(self, key: bytes) -> tuple[Bytes, Bytes, Scales] | None:
        """Data and kernels of the computed block of that key, as views; None if it isn't in the cache."""
        number = self._cache.blocks.find(key)
        own = self._cache.blocks.num_blocks
        if number is None:
            return None
        if number >= own:
            return self._take_attached(number)
        pool, layout = self._pool(), self.layout(own)
        codes, scales = pool.kernels() if pool.kernel_dim else (np.empty(0, np.uint8), np.empty(0, np.uint8))
        return pool.block(number), *layout.kernels_of(codes, scales, number)

    def hold(self, keys: Sequence[bytes]) -> list[int]:
        """Keep the computed blocks of these keys as they are until ``release``: the first ones that are in the cache."""
        held = []
        for key in keys:
            number = self._cache.blocks.find(key)
            if number is None:
                break
            self._cache.blocks.share(number)
            held.append(number)
        return held

    def release(self, held: Sequence[int]) -> None:
        """The counterpart of ``hold``."""
        for number in reversed(held):
            self._cache.blocks.release(number)

    @property
    def num_blocks(self) -> int:
        """Blocks that the cache has of its own."""
        return self._cache.blocks.num_blocks

    def put(self, parent: bytes, ids: Ids, index: int, data: Bytes, codes: Bytes, scales: Scales) -> bytes:
        """Copy block ``index`` of a document into a block of the cache, to be found by others; returns its key.

        Raises ``DoesNotFit`` if all blocks are used.
        """
        key = block_key(parent, ids.tolist())
        blocks = self._cache.blocks
        if blocks.find(key) is not None:
            return key
        number = blocks.allocate(index, blocks.find(parent))
        if number is None:
            raise DoesNotFit("no block of the cache is free; end other answers first, or give the cache more")
        blocks.register(number, parent, ids.tolist(), key)
        found = self.take(key)
        assert found is not None
        found[0][...], found[1][...], found[2][...] = data, codes, scales
        blocks.release(number)
        return key

    def mover(self, offset: int) -> Mover:
        """Moves blocks of this cache's kind by ``offset`` tokens."""
        sparse = self._config.sparse
        return Mover(
            self._rope,
            offset,
            head_dim=self._config.head_dim,
            quantized=self._kv_dtype == "q8",
            use_nope=sparse is not None and sparse.use_nope,
        )

    def attach(
        self,
        ids: Ids,
        data: Bytes,
        codes: Bytes,
        scales: Bytes,
        *,
        parent: bytes = ROOT,
        forget: Callable[[], None] | None = None,
    ) -> bytes:
        """Pin whole blocks that lie elsewhere: ``ids`` [blocks * 64] and the parts of a file; the key of the last one.

        ``parent`` is the key of what comes before them; ``forget`` lets go of the pages of ``data`` (``engine.mapped``).

        The arrays must stay as they are until ``detach``. Attaching the same ids again counts their users.
        """
        keys = document_keys(ids, parent)
        if keys[-1] in self._attached:
            self._attached[keys[-1]].users += 1
            return keys[-1]
        first = self._pool().attach(data, codes, scales)
        for index, key in enumerate(keys):
            part = ids[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
            self._cache.blocks.pin(first + index, parent, part.tolist(), key)
            parent = key
        self._attached[parent] = Attached(first, data, codes, scales, self.layout(len(keys)))
        if forget is not None:
            self.pages.add(parent, forget)
        return parent

    def detach(self, key: bytes) -> None:
        """Let go of a document. Raises ``UsageError`` while an answer uses it."""
        attached = self._attached[key]
        if attached.users > 1:
            attached.users -= 1
            return
        blocks = range(attached.first, attached.first + attached.count)
        if any(self._cache.blocks.is_held(block) for block in blocks):
            raise UsageError("an answer still reads this document; let it end, or close its stream first")
        for block in blocks:
            self._cache.blocks.unpin(block)
        self._pool().detach(attached.first)
        self.pages.remove(key)
        del self._attached[key]

    def _take_attached(self, number: int) -> tuple[Bytes, Bytes, Scales]:
        """The block of a document that begins as another one does."""
        attached = next(one for one in self._attached.values() if one.first <= number < one.first + one.count)
        index, size = number - attached.first, attached.layout.block_bytes
        kernels = attached.layout.kernels_of(attached.codes, attached.scales, index)
        return attached.data[index * size : (index + 1) * size], *kernels

    def _pool(self) -> Any:
        if self._cache.pool is None:
            raise UnsupportedCapability("documents on disk need the native ops; load the model with ops='native'")
        return self._cache.pool


def document_keys(ids: Ids, parent: bytes = ROOT) -> list[bytes]:
    """The chain of keys of whole blocks, [blocks * 64] ids, that follow ``parent``."""
    assert len(ids) % BLOCK_SIZE == 0
    keys = []
    for start in range(0, len(ids), BLOCK_SIZE):
        parent = block_key(parent, ids[start : start + BLOCK_SIZE].tolist())
        keys.append(parent)
    return keys
