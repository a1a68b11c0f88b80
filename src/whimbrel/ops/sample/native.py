"""sample through ``whimbrel._native``: one numpy row in, a token and its log probability out."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import needs_float32


def why_not(logits: Any) -> str | None:
    """Needs float32 numpy input."""
    return needs_float32(logits)


def run(
    logits: Any,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    uniform: float = 0.0,
) -> tuple[int, float]:
    """Logits [V] fp32 to a token and its log probability."""
    token_id, logprob = _native.sample(logits, temperature, top_k, top_p, min_p, typical_p, uniform)
    if token_id < 0:
        raise ValueError(f"can't sample: none of {len(logits)} logits is finite, or one is a NaN")
    return token_id, logprob
