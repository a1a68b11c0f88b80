"""``ops/attend`` for whole sequences: packed pieces, dense or over lists of blocks, with gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whimbrel.ops.attend.reference import listed
from whimbrel.train.sparse_attention import dense_attention, listed_attention

SHORT = 512
"""Up to this length whole score matrices are faster than torch's tiled attention (3x at 128 tokens, 1 thread of AMX)."""

MASKED = 4096
"""Up to this many keys a mask over all of them is faster than gathered blocks: 0.74 and 1.2 s of one
core with AMX for a training step of the retrieval recipe at 2,048 keys."""


def attend(q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Tensor | None = None) -> Tensor:
    """``ops/attend`` for whole sequences without tree masks: ``[T, H, D]`` to ``[T, H * D]``."""
    bounds = list(zip(inputs.cu_seqlens[:-1].tolist(), inputs.cu_seqlens[1:].tolist(), strict=True))
    stored = [cache.read(layer, sequence, inputs) for sequence in range(len(bounds))]
    if blocks is None and len({len(keys) for keys, _ in stored} | {end - first for first, end in bounds}) == 1:
        return _dense_batch(q, stored, scale)
    parts = []
    for (first, end), (keys, values) in zip(bounds, stored, strict=True):
        lists = None if blocks is None else blocks[:, first:end]
        parts.append(_one(q[first:end], keys, values, lists, scale))
    return torch.cat(parts).flatten(1)


def _dense_batch(q: Tensor, stored: list[tuple[Tensor, Tensor]], scale: float) -> Tensor:
    """Sequences of equal length at once."""
    queries = q.unflatten(0, (len(stored), -1)).transpose(1, 2)
    repeats = q.shape[1] // stored[0][0].shape[1]
    keys, values = (
        torch.stack([pair[part] for pair in stored]).transpose(1, 2).repeat_interleave(repeats, 1) for part in (0, 1)
    )
    if queries.shape[2] > SHORT:
        out = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
    else:
        future = torch.full((queries.shape[2],) * 2, -torch.inf, device=q.device).triu(1).to(q.dtype)
        flat = (queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2), values.flatten(0, 1))
        probabilities = torch.softmax(torch.baddbmm(future, flat[0], flat[1], alpha=scale), -1)
        out = (probabilities @ flat[2]).view(queries.shape)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


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
        attention = _masked if keys.shape[1] <= MASKED else listed_attention
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
