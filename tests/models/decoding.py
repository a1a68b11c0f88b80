"""Running the decoder in tests: steps of sequences, tiny parameters, logits on the reference and the native ops."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import BLOCK_SIZE, AttentionInputs
from whimbrel.models import decoder
from whimbrel.models.config import ModelConfig
from whimbrel.models.params import Params
from whimbrel.models.rope import rope_table
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

torch.set_num_threads(1)
MAX_BLOCKS = 8
"""Per sequence, in native pools."""


def step(*sequences: tuple[Any, int], slots: tuple[int, ...] | None = None) -> AttentionInputs:
    """The next tokens of some sequences, each with the number of tokens before them.

    A native cache keeps sequence ``i`` in the blocks of slot ``i``, or of ``slots[i]``, in descending order.
    """
    counts = [len(ids) for ids, _ in sequences]
    owned = np.array(slots or range(len(sequences)), np.int32)[:, None]
    return AttentionInputs(
        token_ids=np.concatenate([ids for ids, _ in sequences]).astype(np.int32),
        positions=np.concatenate([np.arange(past, past + len(ids)) for ids, past in sequences]).astype(np.int32),
        cu_seqlens=np.cumsum([0, *counts]).astype(np.int32),
        kv_lengths=np.array([past + len(ids) for ids, past in sequences], np.int32),
        block_tables=MAX_BLOCKS * owned + np.arange(MAX_BLOCKS, dtype=np.int32)[::-1],
    )


def random_ids(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, tiny.VOCAB_SIZE, count).astype(np.int32)


def torch_params(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Params:
    def convert(array: Any) -> torch.Tensor:
        return torch.from_numpy(array).to(dtype)

    return tiny.params(config, matrix=convert, vector=convert)


def run(config: ModelConfig, params: Params, ops: Any, steps: list[AttentionInputs], cache: Any) -> list[Any]:
    """Logits of each step's rows; the rotary table is that of the longest context in them."""
    rope = rope_table(config, max(int(inputs.kv_lengths.max()) for inputs in steps))
    hidden = [decoder.forward(params, config, ops, rope, inputs, cache) for inputs in steps]
    return [decoder.logits(params, config, ops, rows) for rows in hidden]


def reference_logits(
    config: ModelConfig,
    params: Params,
    *steps: AttentionInputs,
    cache: DenseView | None = None,
    activations: str = "exact",
) -> torch.Tensor:
    """Logits of all rows of all steps, after each other, on the reference ops."""
    cache = cache or DenseView(config.num_key_value_heads, config.head_dim)
    return torch.cat(run(config, params, dispatch.bind("reference", activations=activations), list(steps), cache))


def native_logits(
    config: ModelConfig, params: Params, *steps: AttentionInputs, kv_dtype: str = "bf16", activations: str = "int8"
) -> Any:
    """The same on the native ops and a new pool with room for three sequences."""
    from whimbrel import _native

    groups, dim = config.num_key_value_heads, config.head_dim
    pool = _native.KVPool(3 * MAX_BLOCKS, config.num_hidden_layers, groups, dim, kv_dtype)
    cache = SimpleNamespace(pool=pool, num_key_value_heads=groups, head_dim=dim)
    assert max(int(inputs.kv_lengths.max()) for inputs in steps) <= MAX_BLOCKS * BLOCK_SIZE
    return np.concatenate(run(config, params, dispatch.bind("native", activations=activations), list(steps), cache))
