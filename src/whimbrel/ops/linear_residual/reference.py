"""linear_residual in torch."""

from typing import Any

from torch import Tensor

from whimbrel.ops.reference import linear, needs_tensor


def why_not(x: Any, weight: Any) -> str | None:
    """Needs a torch input; weights of any kind are converted."""
    return needs_tensor(x)


def run(x: Tensor, weight: Any, residual: Tensor, *, scale: float = 1.0, activations: str = "exact") -> Tensor:
    """[T, K] and [T, N] to [T, N]."""
    return residual + scale * linear(x, weight, activations)
