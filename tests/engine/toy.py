"""A network whose next token is a hash of everything it can see, through the cache.

It has the shape of a decoder (one layer, one head) and costs microseconds. A block that was mixed up, written twice or
not at all changes the hash of what follows, so equal tokens mean an intact cache.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from whimbrel.models.config import ModelConfig
from whimbrel.models.params import LayerParams, Params
from whimbrel.ops.sample.reference import run as sample
from whimbrel.ops.table import OpTable

VOCAB_SIZE = 50
PRIME = 65_521


@dataclass(frozen=True)
class ToyModel:
    """What an engine needs of a model."""

    config: ModelConfig
    params: Params


def toy_model(**changes: Any) -> ToyModel:
    """``eos_token_ids`` is empty unless given, so that answers end where the test says."""
    options: dict[str, Any] = {"max_position_embeddings": 1024, "eos_token_ids": ()} | changes
    config = ModelConfig(
        model_type="llama",
        vocab_size=VOCAB_SIZE,
        hidden_size=2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        rms_norm_eps=1e-6,
        **options,
    )
    names = ("input_layernorm", "q_proj", "k_proj", "v_proj", "o_proj", "post_attention_layernorm")
    layer = LayerParams(**dict.fromkeys((*names, "gate_proj", "up_proj", "down_proj"), None) | {"o_proj": "o"})
    return ToyModel(config, Params(embed_tokens=None, layers=(layer,), norm=None, lm_head="head"))


def toy_ops(**changes: Any) -> OpTable:
    """The ops of the toy network; ``changes`` replace some."""
    ops: dict[str, Any] = {
        "embedding": lambda ids, table, *, scale: ids[:, None].astype(np.float32),
        "norm_linear": _norm_linear,
        "rotary_write": _rotary_write,
        **dict.fromkeys(("semantic_kernels", "block_scores", "select_blocks"), None),
        "attend": _attend,
        "linear_residual": lambda x, weight, residual, *, scale: x if weight == "o" else residual,
        "norm_swiglu": lambda x, norm, gate, up, *, eps: x,
        "sample": sample,
    }
    return OpTable(**ops | changes)


def oracle(prompt: list[int], count: int) -> list[int]:
    """The tokens that greedy decoding must give."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(toy_logits(hashes(np.array(tokens))[-1:])[0].argmax()))
    return tokens[len(prompt) :]


def toy_logits(hashes: Any) -> Any:
    """[R] hashes to logits [R, V] fp32 without ties."""
    ids = np.arange(VOCAB_SIZE)
    mixed = (np.asarray(hashes, np.int64)[:, None] * (2 * ids + 1) * 7919 + ids * ids * 31) % PRIME
    return (mixed / 8192).astype(np.float32)


def hashes(tokens: Any) -> Any:
    """[L] tokens to the hash of each prefix."""
    values, h = [], 7
    for token in tokens:
        h = (h * 31 + int(token) + 1) % PRIME
        values.append(h)
    return np.array(values)


def _norm_linear(x: Any, norm: Any, weights: Any, *, eps: float, bias: Any = None, scale: float = 1.0) -> Any:
    return toy_logits(x[:, 0]) if weights == ("head",) else x


def _rotary_write(qkv: Any, rope: Any, inputs: Any, cache: Any, layer: int, **rest: Any) -> Any:
    keys = np.stack([qkv, inputs.positions[:, None]], axis=-1)  # [T, 1, 2]: the token, and where it is
    cache.write(layer, keys, keys, inputs)
    return qkv[:, None]


def _attend(q: Any, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Any = None) -> Any:
    rows = []
    for sequence, count in enumerate(np.diff(inputs.cu_seqlens)):
        keys, values = cache.read(layer, sequence, inputs)
        assert (keys == values).all()
        assert (keys[:, 0, 1] == np.arange(len(keys))).all(), "a key of another position"
        rows.append(hashes(keys[:, 0, 0])[-count:])
    return np.concatenate(rows)[:, None].astype(np.float32)
