"""The decoder as training runs it: ``models.decoder`` over the op table of ``train.ops``.

There is no second definition of the network: only the op table differs from the reference's. Whole sequences at a time.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs
from whimbrel.models import decoder
from whimbrel.models.config import ModelConfig
from whimbrel.ops.table import OpTable
from whimbrel.train.batches import Batch
from whimbrel.train.head_loss import head_loss
from whimbrel.train.packed_view import PackedView
from whimbrel.train.parameters import decoder_params

Ids = npt.NDArray[np.int32]


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
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    ops: OpTable,
    rope: Any,
    batch: Batch,
    *,
    recompute: bool = False,
) -> Tensor:
    """Run a batch of packed pieces, each of which sees itself only: ``[T, hidden_size]`` before the final norm.

    ``recompute`` keeps nothing inside a layer and runs it again for its gradients: less memory, a third more work.
    """
    cache = PackedView(config.num_key_value_heads, config.head_dim)
    params, inputs = decoder_params(config, tensors), packed_inputs(batch)
    again = partial(checkpoint, use_reentrant=False) if recompute else None
    return decoder.forward(params, config, ops, rope, inputs, cache, again)  # type: ignore[no-any-return]


def packed_inputs(batch: Batch) -> AttentionInputs:
    """What attention asks of a batch of whole pieces."""
    pieces = len(batch.cu_seqlens) - 1
    return AttentionInputs(
        token_ids=batch.token_ids,
        positions=batch.positions,
        cu_seqlens=batch.cu_seqlens,
        kv_lengths=np.diff(batch.cu_seqlens).astype(np.int32),
        block_tables=np.full((pieces, 1), -1, np.int32),  # DenseView has none
    )


def scores(config: ModelConfig, tensors: Mapping[str, Tensor], ops: OpTable, hidden: Tensor) -> Tensor:
    """Logits ``[R, vocab_size]`` of rows ``[R, hidden_size]``."""
    return decoder.logits(decoder_params(config, tensors), config, ops, hidden)  # type: ignore[no-any-return]


def summed_loss(config: ModelConfig, tensors: Mapping[str, Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy of ``scores`` with targets ``[R]``, without ever holding all logits."""
    names, tied = config.family.hf_model_names, config.tie_word_embeddings
    normed = functional.rms_norm(hidden, hidden.shape[-1:], tensors[names["norm"]], config.rms_norm_eps)
    scaled = normed if config.logit_scale == 1.0 else normed * config.logit_scale
    return head_loss(scaled, tensors[names["embed_tokens" if tied else "lm_head"]], targets)
