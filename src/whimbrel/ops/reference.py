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
    """``x`` as the kernels of ``weight`` see it; the gradient passes straight through.

    ``"exact"`` changes nothing. ``"bf16"`` rounds to bf16. ``"int8"`` rounds to 127 steps of ``max|x| / 127`` per row
    and group of 32 inputs if the weight is stored in 4 or 8 bits, and changes nothing for other weights.
    """
    if activations == "bf16":
        return x + (x.to(torch.bfloat16).to(x.dtype) - x).detach()
    if activations == "int8" and getattr(weight, "layout", None) in QUANTIZED_LAYOUTS:
        return x + (_to_int8_and_back(x) - x).detach()
    return x


def linear(x: Tensor, weight: Any, activations: str) -> Tensor:
    """``round(x) W^T``: ``[..., K]`` and ``[N, K]`` to ``[..., N]``."""
    return torch.matmul(round_activations(x, weight, activations), dense(weight, x).T)


def _to_int8_and_back(x: Tensor) -> Tensor:
    groups = x.detach().reshape(*x.shape[:-1], -1, ACTIVATION_GROUP)
    step = groups.abs().amax(-1, keepdim=True) / 127
    steps = torch.where(step > 0, step, torch.ones_like(step))
    return ((groups / steps).round() * step).reshape(x.shape)
