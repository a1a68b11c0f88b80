"""norm_swiglu through ``whimbrel._native``: numpy in, numpy out."""

from typing import Any

import numpy as np

from whimbrel import _native
from whimbrel.ops.native import needs_float32, needs_packed


def why_not(x: Any, weights: tuple[Any, ...]) -> str | None:
    """Needs float32 numpy input and packed weights."""
    return needs_float32(x) or needs_packed(*weights)


def run(x: Any, norm_weight: Any, gate: Any, up: Any, *, eps: float, activations: str = "int8") -> Any:
    """[T, K] fp32 to [T, F] fp32."""
    out = np.empty((x.shape[0], gate.shape[0]), np.float32)
    _native.norm_swiglu(x, norm_weight, gate.handle, up.handle, eps, activations == "bf16", out)
    return out
