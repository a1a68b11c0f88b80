"""The decoder as training runs it: ``models.decoder`` over torch ops, with an ``attend`` that is fast enough to train.

There is no second definition of the network: only the op table differs from the reference's. Whole sequences at a time.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs
from whimbrel.models import decoder
from whimbrel.models.config import ModelConfig
from whimbrel.ops.attend.reference import listed
from whimbrel.ops.dispatch import bind
from whimbrel.ops.table import OpTable
from whimbrel.train.batches import Batch
from whimbrel.train.parameters import decoder_params
from whimbrel.train.sparse_attention import dense_attention, listed_attention

SHORT = 512
"""Up to this length whole score matrices are faster than torch's tiled attention (3x at 128 tokens, 1 thread of AMX)."""

MASKED = 4096
"""Up to this many keys a mask over all of them is faster than gathered blocks: 0.74 and 1.2 s of one
core with AMX for a training step of the retrieval recipe at 2,048 keys."""

Ids = npt.NDArray[np.int32]


def training_ops() -> OpTable:
    """The reference ops, but attention by ``train.sparse_attention``: its memory does not grow with rows times keys."""
    ops = bind("reference")
    return replace(ops, attend=attend, implementations={**ops.implementations, "attend": "train"})


def hidden_states(
    config: ModelConfig, tensors: Mapping[str, Tensor], ops: OpTable, rope: Any, token_ids: Ids, positions: Ids
) -> Tensor:
    """Run ``[S, T]`` ids at ``[S, T]`` positions (for the rotary embedding): ``[S, T, hidden_size]`` before the norm."""
    sequences, tokens = token_ids.shape
    inputs = AttentionInputs(
        token_ids=token_ids.reshape(-1).astype(np.int32),
        positions=positions.reshape(-1).astype(np.int32),
        cu_seqlens=np.arange(0, (sequences + 1) * tokens, tokens, dtype=np.int32),
        kv_lengths=np.full(sequences, tokens, np.int32),
        block_tables=np.full((sequences, 1), -1, np.int32),  # DenseView has none
    )
    cache = DenseView(config.num_key_value_heads, config.head_dim)
    hidden = decoder.forward(decoder_params(config, tensors), config, ops, rope, inputs, cache)
    return hidden.view(sequences, tokens, -1)  # type: ignore[no-any-return]


def packed_hidden_states(
    config: ModelConfig, tensors: Mapping[str, Tensor], ops: OpTable, rope: Any, batch: Batch
) -> Tensor:
    """Run a batch of packed pieces, each of which sees itself only: ``[T, hidden_size]`` before the final norm."""
    pieces = len(batch.cu_seqlens) - 1
    inputs = AttentionInputs(
        token_ids=batch.token_ids,
        positions=batch.positions,
        cu_seqlens=batch.cu_seqlens,
        kv_lengths=np.diff(batch.cu_seqlens).astype(np.int32),
        block_tables=np.full((pieces, 1), -1, np.int32),
    )
    cache = DenseView(config.num_key_value_heads, config.head_dim)
    return decoder.forward(decoder_params(config, tensors), config, ops, rope, inputs, cache)  # type: ignore[no-any-return]


def scores(config: ModelConfig, tensors: Mapping[str, Tensor], ops: OpTable, hidden: Tensor) -> Tensor:
    """Logits ``[R, vocab_size]`` of rows ``[R, hidden_size]``."""
    return decoder.logits(decoder_params(config, tensors), config, ops, hidden)  # type: ignore[no-any-return]


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
