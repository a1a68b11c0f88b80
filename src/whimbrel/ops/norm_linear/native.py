"""norm_linear through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import empty, needs_float32, needs_packed


def why_not(x: Any, weights: tuple[Any, ...]) -> str | None:
    """Needs float32 numpy input and packed weights."""
    return needs_float32(x) or needs_packed(*weights)


def run(
    x: Any,
    norm_weight: Any | None,
    weights: tuple[Any, ...],
    *,
    eps: float,
    bias: Any | None = None,
    scale: float = 1.0,
    activations: str = "int8",
) -> Any:
    """[T, K] fp32 to [T, sum N] fp32."""
    out = empty(x.shape[0], sum([weight.shape[0] for weight in weights]))
    handles = tuple([weight.handle for weight in weights])
    _native.norm_linear(x, norm_weight, handles, eps, bias, scale, activations == "bf16", out)
    return out
