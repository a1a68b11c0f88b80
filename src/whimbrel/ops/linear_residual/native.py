"""linear_residual through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

from whimbrel import _native
from whimbrel.ops.native import empty, needs_float32, needs_packed


def why_not(x: Any, weight: Any) -> str | None:
    """Needs float32 numpy input and a packed weight."""
    return needs_float32(x) or needs_packed(weight)


def run(x: Any, weight: Any, residual: Any, *, scale: float = 1.0, activations: str = "int8") -> Any:
    """[T, K] fp32 and [T, N] fp32 to [T, N] fp32."""
    out = empty(*residual.shape)
    _native.linear_residual(x, weight.handle, residual, scale, activations == "bf16", out)
    return out
