"""The op table of training: the reference's formulas with as few passes over memory as autograd allows.

Measured on 2 cores of an AMD EPYC (Zen 4) with a model of 3 million parameters at 4,096 tokens a step: see
``docs/training.md``. Whatever these functions do not cover (packed weights, rounded activations) goes to the reference.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whimbrel.ops.dispatch import bind
from whimbrel.ops.embedding import reference as embedding_reference
from whimbrel.ops.linear_residual import reference as linear_residual_reference
from whimbrel.ops.norm_linear import reference as norm_linear_reference
from whimbrel.ops.norm_swiglu import reference as norm_swiglu_reference
from whimbrel.ops.rotary_write import reference as rotary_write_reference
from whimbrel.ops.table import OpTable
from whimbrel.train.block_choice import select_blocks, semantic_kernels
from whimbrel.train.device import DeviceRope
from whimbrel.train.padded_attention import PaddedAttention

Linear = Callable[[Tensor, Tensor], Tensor]
"""``x W^T``: [T, K] and [N, K] to [T, N]."""


def training_ops(linear: Linear = functional.linear) -> OpTable:
    """The reference ops, with these functions in place of theirs; attention's memory does not grow with rows times keys.

    ``linear`` computes the projections of the layers (fp8's stands in ``train.fp8``); embedding and head stay as they are.
    """
    ops = bind("reference")
    own: dict[str, Any] = {
        "embedding": embedding,
        "norm_linear": partial(norm_linear, linear=linear),
        "norm_swiglu": partial(norm_swiglu, linear=linear),
        "linear_residual": partial(linear_residual, linear=linear),
        "rotary_write": rotary_write,
        "attend": PaddedAttention(),
        "semantic_kernels": semantic_kernels,
        "select_blocks": select_blocks,
    }
    return replace(ops, **own, implementations={**ops.implementations, **dict.fromkeys(own, "train")})


def embedding(token_ids: Any, table: Any, *, scale: float = 1.0) -> Tensor:
    """``ops/embedding``. The gradient of an indexed table is twice as slow as that of ``functional.embedding``."""
    if not isinstance(table, Tensor):
        return embedding_reference.run(token_ids, table, scale=scale)
    ids = torch.as_tensor(token_ids, dtype=torch.long, device=table.device)
    rows = functional.embedding(ids, table)
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return wide if scale == 1.0 else wide * scale


def rotary_write(qkv: Tensor, rope: Any, inputs: Any, cache: Any, layer: int, **options: Any) -> Tensor:
    """``ops/rotary_write``; positions that ``DeviceRope`` has brought to the device are not brought there by every layer."""
    if isinstance(rope, DeviceRope):
        inputs = replace(inputs, positions=rope.positions(inputs.positions))
    return rotary_write_reference.run(qkv, rope, inputs, cache, layer, **options)


def norm_linear(
    x: Tensor,
    norm_weight: Any | None,
    weights: tuple[Any, ...],
    *,
    eps: float,
    bias: Any | None = None,
    scale: float = 1.0,
    activations: str = "exact",
    linear: Linear = functional.linear,
) -> Tensor:
    """``ops/norm_linear``: one product with all weights; the scale goes to its input, which is the smaller side."""
    if not _plain(activations, norm_weight, *weights):
        return norm_linear_reference.run(
            x, norm_weight, weights, eps=eps, bias=bias, scale=scale, activations=activations
        )
    normed = _norm(x, norm_weight, eps)
    if len(weights) == 1:  # the head
        return functional.linear(normed if scale == 1.0 else normed * scale, weights[0], bias)
    out = linear(normed if scale == 1.0 else normed * scale, torch.cat(weights))
    return out if bias is None else out + bias


def norm_swiglu(
    x: Tensor,
    norm_weight: Any,
    gate: Any,
    up: Any,
    *,
    eps: float,
    activations: str = "exact",
    linear: Linear = functional.linear,
) -> Tensor:
    """``ops/norm_swiglu``."""
    if not _plain(activations, norm_weight, gate, up):
        return norm_swiglu_reference.run(x, norm_weight, gate, up, eps=eps, activations=activations)
    normed = _norm(x, norm_weight, eps)
    return functional.silu(linear(normed, gate)) * linear(normed, up)


def linear_residual(
    x: Tensor,
    weight: Any,
    residual: Tensor,
    *,
    scale: float = 1.0,
    activations: str = "exact",
    linear: Linear = functional.linear,
) -> Tensor:
    """``ops/linear_residual``: scaled and added in one pass."""
    if not _plain(activations, weight):
        return linear_residual_reference.run(x, weight, residual, scale=scale, activations=activations)
    return torch.add(residual, linear(x, weight), alpha=scale)


def _plain(activations: str, *weights: Any) -> bool:
    return activations == "exact" and all(weight is None or isinstance(weight, Tensor) for weight in weights)


def _norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return x if weight is None else functional.rms_norm(x, x.shape[-1:], weight, eps)
