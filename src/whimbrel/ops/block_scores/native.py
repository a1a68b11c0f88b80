"""block_scores through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import (
    BLOCK_SIZE,
    empty,
    needs_float32,
    needs_pool,
    needs_published_kernels,
    selection_arguments,
)


def why_not(q: Any, cache: Any, sparse: Any) -> str | None:
    """Needs float32 numpy input, a cache with a native pool, and kernels of 32 tokens, 16 apart, in blocks of 64."""
    return needs_float32(q) or needs_pool(cache) or needs_published_kernels(sparse)


def run(q: Any, inputs: Any, cache: Any, layer: int, *, scale: float, sparse: Any, rope: Any | None = None) -> Any:
    """[T, H, D] fp32 to [G, T, b] fp32."""
    longest = -(-int(inputs.kv_lengths.max()) // BLOCK_SIZE)
    out = empty(cache.num_key_value_heads, len(q), longest)
    _native.block_scores(*selection_arguments(q, inputs, cache, layer, scale, sparse, rope), out)
    return out
