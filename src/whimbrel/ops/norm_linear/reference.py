"""norm_linear in torch."""

from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.reference import dense, linear, needs_tensor, rms_norm


def why_not(x: Any, weights: Any) -> str | None:
    """Needs a torch input; weights of any kind are converted."""
    return needs_tensor(x)


def run(
    x: Tensor,
    norm_weight: Any | None,
    weights: tuple[Any, ...],
    *,
    eps: float,
    bias: Any | None = None,
    scale: float = 1.0,
    activations: str = "exact",
) -> Tensor:
    """[T, K] to [T, sum N]."""
    normed = rms_norm(x, norm_weight, eps)
    out = scale * torch.cat([linear(normed, weight, activations) for weight in weights], -1)
    return out if bias is None else out + dense(bias, x)
