"""A model of two layers and text that it learns at once: what the tests of training share."""

from pathlib import Path

import numpy as np

from whimbrel.formats.shards import ShardWriter
from whimbrel.models.config import ModelConfig
from whimbrel.train.parametrization import mup_config

CONFIG = ModelConfig(
    model_type="llama",
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
)
MUP_CONFIG = mup_config(CONFIG, base_width=16)


def counting_shard(folder: Path, documents: int = 120, vocab_size: int = 64, vocabulary: str = "v") -> Path:
    """Counting from a random number, by one: easily learned."""
    rng = np.random.default_rng(0)
    path = folder / f"{vocabulary}.shard"
    with ShardWriter(path, vocab_size=vocab_size, vocabulary=vocabulary) as writer:
        for length in rng.integers(5, 60, documents):
            writer.add((rng.integers(64) + np.arange(length)) % 64)
    return path
