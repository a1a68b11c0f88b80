"""Multi-token prediction: one more layer that predicts the token after the next, for the trunk's sake.

    u_i  = W [norm_h(h_i) ; norm_e(scale_emb Emb(x_{i+1}))]        W [d, 2 d]
    loss = CE(head(layer(u)_i), x_{i+2})                           embedding, final norm and head are the model's own

The last token of a piece has no successor in it: its row predicts nothing. Source: MiniCPM4 technical report, eq. 2-5;
DeepSeek-V3 (2024), 2.2.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from whimbrel.attention.dense_view import DenseView
from whimbrel.models import decoder
from whimbrel.models.config import ModelConfig
from whimbrel.ops.table import OpTable
from whimbrel.train.batches import IGNORED, Batch
from whimbrel.train.network import packed_inputs, summed_loss
from whimbrel.train.parameters import Parameters, decoder_params

PREFIX = "mtp."
"""Names of the head's tensors begin with it; an export leaves them out."""
NORM_HIDDEN, NORM_EMBED, JOIN = "mtp.norm_hidden.weight", "mtp.norm_embed.weight", "mtp.join.weight"


def mtp_parameters(config: ModelConfig, trunk: Mapping[str, Tensor], seed: int = 0) -> Parameters:
    """The head's tensors: its layer begins as a copy of the trunk's last, the join as the mean of both inputs."""
    hidden = config.hidden_size
    parameters = {
        NORM_HIDDEN: nn.Parameter(torch.ones(hidden)),
        NORM_EMBED: nn.Parameter(torch.ones(hidden)),
        JOIN: nn.Parameter(torch.eye(hidden).repeat(1, 2) / 2),
    }
    last = _layer_prefix(config.num_hidden_layers - 1)
    for name, tensor in trunk.items():
        if name.startswith(last):
            parameters[PREFIX + name.removeprefix(last)] = nn.Parameter(tensor.detach().clone())
    return parameters


def mtp_loss(
    config: ModelConfig, tensors: Mapping[str, Tensor], ops: OpTable, rope: Any, batch: Batch, hidden: Tensor
) -> Tensor:
    """The summed loss in nats over rows that have a target two tokens on; ``hidden`` is the trunk's residual stream."""
    out = mtp_hidden_states(config, tensors, ops, rope, batch, hidden)
    targets = torch.from_numpy(shifted(batch)[1])
    return summed_loss(config, tensors, out, targets.to(out.device))


def mtp_hidden_states(
    config: ModelConfig, tensors: Mapping[str, Tensor], ops: OpTable, rope: Any, batch: Batch, hidden: Tensor
) -> Tensor:
    """The head's residual stream ``[T, hidden_size]``: row i predicts the token at i + 2, from ``hidden`` and token i + 1."""
    following, _ = shifted(batch)
    eps, family = config.rms_norm_eps, config.family
    embedded = ops.embedding(following, tensors[family.hf_model_names["embed_tokens"]], scale=config.scale_emb)
    parts = (
        functional.rms_norm(hidden, hidden.shape[-1:], tensors[NORM_HIDDEN], eps),
        functional.rms_norm(embedded, hidden.shape[-1:], tensors[NORM_EMBED], eps),
    )
    joined = functional.linear(torch.cat(parts, 1), tensors[JOIN])
    prefix = _layer_prefix(config.num_hidden_layers - 1)
    renamed = {
        prefix + name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)
    }
    layer = decoder_params(config, {**tensors, **renamed}).layers[-1]
    cache = DenseView(config.num_key_value_heads, config.head_dim)
    return decoder.block(joined, layer, 0, config, ops, rope, packed_inputs(batch), cache)  # type: ignore[no-any-return]


def shifted(batch: Batch) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Each row's next token in its piece (the last row: its own), and the target of that token (``IGNORED``)."""
    following, targets = np.roll(batch.token_ids, -1), np.roll(batch.targets, -1)
    last = batch.cu_seqlens[1:] - 1
    following[last], targets[last] = batch.token_ids[last], IGNORED
    return following, targets


def _layer_prefix(index: int) -> str:
    return f"model.layers.{index}."
