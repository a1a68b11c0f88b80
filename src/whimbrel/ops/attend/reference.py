"""attend in torch."""

from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.reference import needs_tensor


def why_not(q: Any, cache: Any) -> str | None:
    """Needs a torch input."""
    return needs_tensor(q)


def run(q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float) -> Tensor:
    """[T, H, D] to [T, H * D], one sequence after the other."""
    outputs = []
    for sequence, (first, end) in enumerate(zip(inputs.cu_seqlens[:-1], inputs.cu_seqlens[1:], strict=True)):
        keys, values = cache.read(layer, sequence, inputs)
        outputs.append(_attend_one(q[first:end], keys.to(q), values.to(q), scale))
    return torch.cat(outputs).flatten(1)


def _attend_one(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """The last rows of one sequence: q [n, H, D], keys and values [L, G, D] with n <= L, to [n, H, D]."""
    rows, length = q.shape[0], keys.shape[0]
    share = q.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(share, dim=1) for part in (keys, values))
    scores = scale * torch.einsum("nhd,lhd->hnl", q, keys)
    visible = torch.ones(rows, length, dtype=torch.bool, device=q.device).tril(length - rows)
    scores = scores.masked_fill(~visible, -torch.inf)
    wide = torch.promote_types(q.dtype, torch.float32)
    probabilities = torch.softmax(scores, -1, dtype=wide).to(q.dtype)
    return torch.einsum("hnl,lhd->nhd", probabilities, values)
