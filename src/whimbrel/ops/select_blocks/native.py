"""select_blocks through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

import numpy as np

from whimbrel import _native
from whimbrel.ops.native import BLOCK_SIZE, needs_float32, needs_pool, needs_published_kernels, selection_arguments


def why_not(q: Any, cache: Any, sparse: Any) -> str | None:
    """Needs float32 numpy input, a cache with a native pool, and kernels of 32 tokens, 16 apart, in blocks of 64."""
    return needs_float32(q) or needs_pool(cache) or needs_published_kernels(sparse)


def run(q: Any, inputs: Any, cache: Any, layer: int, *, scale: float, sparse: Any, rope: Any | None = None) -> Any:
    """[T, H, D] fp32 to int32 [G, T, K], or None."""
    # the last token of the longest sequence is the first to turn sparse
    if inputs.kv_lengths.max() < max(sparse.dense_len, sparse.num_blocks * BLOCK_SIZE + 1):
        return None
    out = np.empty((cache.num_key_value_heads, len(q), sparse.num_blocks), np.int32)
    arguments = selection_arguments(q, inputs, cache, layer, scale, sparse, rope)
    _native.select_blocks(*arguments, sparse.dense_len, out)
    return out
