"""semantic_kernels through ``whimbrel._native``: the pool's own kernels, 8 bits with a scale each."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import needs_pool, needs_published_kernels


def why_not(cache: Any, sparse: Any) -> str | None:
    """Needs a cache with a native pool, and kernels of 32 tokens, 16 apart, in blocks of 64."""
    return needs_pool(cache) or needs_published_kernels(sparse)


def run(inputs: Any, cache: Any, layer: int, *, sparse: Any, rope: Any | None = None) -> None:
    """Writes the kernels that end in this step."""
    if inputs.tree_masks is not None:
        return
    tables: tuple[Any, Any] = (None, None)
    if sparse.use_nope:
        assert rope is not None, "keys are turned back by the rotary table"
        tables = (rope.cos, rope.sin)
    _native.semantic_kernels(inputs.cu_seqlens, inputs.kv_lengths, inputs.block_tables, cache.pool, layer, *tables)
