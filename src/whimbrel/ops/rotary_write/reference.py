"""rotary_write in torch."""

from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.reference import needs_tensor, rms_norm


def why_not(qkv: Any, cache: Any) -> str | None:
    """Needs a torch input."""
    return needs_tensor(qkv)


def run(
    qkv: Tensor,
    rope: Any,
    inputs: Any,
    cache: Any,
    layer: int,
    *,
    q_norm: Any | None = None,
    k_norm: Any | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """[T, (H + 2 G) D] to q [T, H, D]; writes k and v."""
    groups = cache.num_key_value_heads
    heads = qkv.reshape(qkv.shape[0], -1, cache.head_dim)
    q, k, v = torch.split(heads, [heads.shape[1] - 2 * groups, groups, groups], dim=1)
    positions = torch.as_tensor(inputs.positions, dtype=torch.long)
    cos, sin = (torch.as_tensor(table)[positions].to(qkv)[:, None] for table in (rope.cos, rope.sin))
    q = rotate(rms_norm(q, q_norm, eps), cos, sin)
    k = rotate(rms_norm(k, k_norm, eps), cos, sin)
    cache.write(layer, k, v, inputs)
    return q


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + D/2) of x [T, heads, D] by its angle; cos and sin [T, 1, D/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
