"""rotary_write through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import empty, needs_float32, needs_pool


def why_not(qkv: Any, cache: Any) -> str | None:
    """Needs float32 numpy input and a cache with a native pool."""
    return needs_float32(qkv) or needs_pool(cache)


def run(
    qkv: Any,
    rope: Any,
    inputs: Any,
    cache: Any,
    layer: int,
    *,
    q_norm: Any | None = None,
    k_norm: Any | None = None,
    eps: float = 1e-6,
) -> Any:
    """[T, (H + 2 G) D] fp32 to q [T, H, D] fp32; writes k and v into the pool's blocks."""
    dim = cache.head_dim
    out = empty(qkv.shape[0], qkv.shape[1] // dim - 2 * cache.num_key_value_heads, dim)
    _native.rotary_write(
        qkv,
        rope.cos,
        rope.sin,
        inputs.positions,
        inputs.cu_seqlens,
        inputs.kv_lengths,
        inputs.block_tables,
        cache.pool,
        layer,
        q_norm,
        k_norm,
        eps,
        out,
    )
    return out
