"""What the torch references share: weights as dense tensors, RMSNorm, and the rounding of activations.

The references compute in the dtype of their input ``x``: fp64 for the oracle, fp32 for training and bf16 for the
error that a low-precision kernel is allowed (``testing.tolerance``).
"""

from typing import Any

import torch
from torch import Tensor

ACTIVATION_GROUP = 32
"""Inputs that share one 8-bit scale. Measured on SmolLM2-135M: +0.3% perplexity, one scale per row +3.0%."""

QUANTIZED_LAYOUTS = ("q8", "q4")
"""Packed layouts whose kernels can take 8-bit activations."""


def needs_tensor(x: Any) -> str | None:
    """None if ``x`` is a torch tensor, else what was found."""
    if isinstance(x, Tensor):
        return None
    return f"the reference works on torch tensors, got {type(x).__module__}.{type(x).__name__}"


def dense(weight: Any, like: Tensor) -> Tensor:
    """A weight or vector (torch tensor, numpy array or ``PackedTensor``) in the dtype and on the device of ``like``."""
    if hasattr(weight, "dequantize") and not isinstance(weight, Tensor):
        weight = weight.dequantize()
    return torch.as_tensor(weight).to(dtype=like.dtype, device=like.device)


def rms_norm(x: Tensor, weight: Any | None, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis; None leaves ``x`` as it is.

    The mean is taken in at least fp32 and the result cast back before the weight is applied. Source: Zhang and
    Sennrich (2019), Root Mean Square Layer Normalization.
    """
    if weight is None:
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * dense(weight, x)


def round_activations(x: Tensor, weight: Any, activations: str) -> Tensor:
    """``x`` as a kernel of a packed ``weight`` sees it; the gradient passes straight through.

    What ``"int8"`` and ``"bf16"`` mean for each layout is in ``ops/norm_linear``; ``"exact"`` changes nothing, and a
    weight that isn't packed takes ``x`` as it is.
    """
    layout = getattr(weight, "layout", None)
    if activations == "exact" or layout not in (*QUANTIZED_LAYOUTS, "bf16"):
        return x
    if activations == "int8" and layout in QUANTIZED_LAYOUTS:
        return x + (_to_int8_and_back(x) - x).detach()
    return x + (x.to(torch.bfloat16).to(x.dtype) - x).detach()


def linear(x: Tensor, weight: Any, activations: str) -> Tensor:
    """``round(x) W^T``: ``[..., K]`` and ``[N, K]`` to ``[..., N]``."""
    return torch.matmul(round_activations(x, weight, activations), dense(weight, x).T)


def _to_int8_and_back(x: Tensor) -> Tensor:
    groups = x.detach().reshape(*x.shape[:-1], -1, ACTIVATION_GROUP)
    step = groups.abs().amax(-1, keepdim=True) / 127
    steps = torch.where(step > 0, step, torch.ones_like(step))
    return ((groups / steps).round() * step).reshape(x.shape)
