"""norm_swiglu in torch."""

from typing import Any

from torch import Tensor
from torch.nn.functional import silu

from whimbrel.ops.reference import linear, needs_tensor, rms_norm


def why_not(x: Any, weights: Any) -> str | None:
    """Needs a torch input; weights of any kind are converted."""
    return needs_tensor(x)


def run(x: Tensor, norm_weight: Any, gate: Any, up: Any, *, eps: float, activations: str = "exact") -> Tensor:
    """[T, K] to [T, F]."""
    normed = rms_norm(x, norm_weight, eps)
    return silu(linear(normed, gate, activations)) * linear(normed, up, activations)
