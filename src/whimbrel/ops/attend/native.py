"""attend through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import empty, needs_float32, needs_pool


def why_not(q: Any, cache: Any) -> str | None:
    """Needs float32 numpy input and a cache with a native pool."""
    return needs_float32(q) or needs_pool(cache)


def run(q: Any, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Any | None = None) -> Any:
    """[T, H, D] fp32 to [T, H * D] fp32."""
    tokens, heads, dim = q.shape
    out = empty(tokens, heads * dim)
    _native.attend(
        q,
        inputs.cu_seqlens,
        inputs.kv_lengths,
        inputs.block_tables,
        cache.pool,
        layer,
        scale,
        blocks,
        inputs.tree_masks,
        inputs.block_mass,
        out,
    )
    return out
