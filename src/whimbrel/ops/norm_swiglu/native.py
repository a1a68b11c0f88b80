"""norm_swiglu through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import empty, needs_float32, needs_packed


def why_not(x: Any, weights: tuple[Any, ...]) -> str | None:
    """Needs float32 numpy input and packed weights."""
    return needs_float32(x) or needs_packed(*weights)


def run(x: Any, norm_weight: Any, gate: Any, up: Any, *, eps: float, activations: str = "int8") -> Any:
    """[T, K] fp32 to [T, F] fp32."""
    out = empty(x.shape[0], gate.shape[0])
    _native.norm_swiglu(x, norm_weight, gate.handle, up.handle, eps, activations == "bf16", out)
    return out
