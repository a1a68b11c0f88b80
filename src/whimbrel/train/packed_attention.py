"""``ops/attend`` for whole sequences: packed pieces, dense or over lists of blocks, with gradients."""

from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.attend.reference import listed
from whimbrel.train.causal_attention import causal_attention
from whimbrel.train.device import has_kernels
from whimbrel.train.sparse_attention import dense_attention, listed_attention

LONGEST = 2048
"""Up to this length products of matrices (``causal_attention``) are faster than torch's tiled attention, whose memory grows
with the length only."""

MASKED = 4096
"""Without Triton's kernels: up to this many keys a mask over all of them is faster than gathered blocks: 0.74 and 1.2 s of one
core with AMX for a training step of the retrieval recipe at 2,048 keys."""


def attend(q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Tensor | None = None) -> Tensor:
    """``ops/attend`` for whole sequences without tree masks: ``[T, H, D]`` to ``[T, H * D]``."""
    bounds = list(zip(inputs.cu_seqlens[:-1].tolist(), inputs.cu_seqlens[1:].tolist(), strict=True))
    stored = [cache.read(layer, sequence, inputs) for sequence in range(len(bounds))]
    longest = max(len(keys) for keys, _ in stored)
    if (
        blocks is None
        and not q.is_cuda  # torch's tiled attention is the faster one there
        and longest <= LONGEST
        and all(len(k) == end - first for (k, _), (first, end) in zip(stored, bounds, strict=True))
    ):
        keys, values = (torch.cat([pair[part] for pair in stored]) for part in (0, 1))
        return causal_attention(q, keys, values, bounds, scale).flatten(1)
    parts = []
    for (first, end), (keys, values) in zip(bounds, stored, strict=True):
        lists = None if blocks is None else blocks[:, first:end]
        parts.append(_one(q[first:end], keys, values, lists, scale))
    return torch.cat(parts).flatten(1)


def _one(q: Tensor, keys: Tensor, values: Tensor, lists: Tensor | None, scale: float) -> Tensor:
    """One sequence, rows [n, H, D] to [n, H, D]; the rows without a list come first and see everything."""
    q, keys, values = (x.transpose(0, 1) for x in (q, keys, values))
    rows = q.shape[1]
    dense = rows if lists is None else int((lists < 0).all(-1)[0].sum())
    first = keys.shape[1] - rows
    parts = []
    if dense:
        seen = first + dense
        parts.append(dense_attention(q[:, :dense], keys[:, :seen], values[:, :seen], scale=scale))
    if lists is not None and dense < rows:
        attention = _masked if keys.shape[1] <= MASKED and not has_kernels(q) else listed_attention
        parts.append(attention(q[:, dense:], keys, values, lists[:, dense:], scale=scale))
    return torch.cat(parts, 1).transpose(0, 1)


def _masked(q: Tensor, keys: Tensor, values: Tensor, lists: Tensor, *, scale: float) -> Tensor:
    """``listed_attention`` by whole score matrices, 256 rows and all that they can see at a time."""
    first, group, parts = keys.shape[1] - q.shape[1], (len(keys), -1), []
    for row in range(0, q.shape[1], 256):
        queries, chosen = q[:, row : row + 256].unflatten(0, group), lists[:, row : row + 256]
        seen = first + row + chosen.shape[1]
        future = torch.ones(chosen.shape[1], seen, dtype=torch.bool, device=q.device).triu(seen - chosen.shape[1] + 1)
        hidden = future | ~listed(chosen, keys.shape[1])[..., :seen]
        bias = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill_(hidden, -torch.inf)
        scores = (scale * queries) @ keys[:, None, :seen].transpose(2, 3)
        parts.append(torch.softmax(scores.add_(bias[:, None]), -1) @ values[:, None, :seen])
    return torch.cat(parts, 2).flatten(0, 1)
