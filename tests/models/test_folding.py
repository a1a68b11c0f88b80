"""Invariant 1: a MiniCPM folded into a plain Llama computes the same logits."""

from typing import Any

import numpy as np
import pytest
import torch

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs
from whimbrel.formats.packed import PackedTensor, pack
from whimbrel.models import decoder
from whimbrel.models.folding import fold_to_llama, scaled
from whimbrel.models.rope import rope_table
from whimbrel.ops import dispatch
from whimbrel.testing import tiny


def logits(config: Any, params: Any) -> Any:
    ids = np.random.default_rng(3).integers(0, config.vocab_size, 50).astype(np.int32)
    inputs = AttentionInputs(
        token_ids=ids,
        positions=np.arange(50, dtype=np.int32),
        cu_seqlens=np.array([0, 50], np.int32),
        kv_lengths=np.array([50], np.int32),
        block_tables=np.zeros((1, 1), np.int32),
    )
    ops = dispatch.bind("reference")
    cache = DenseView(config.num_key_value_heads, config.head_dim)
    hidden = decoder.forward(params, config, ops, rope_table(config, 50), inputs, cache)
    return decoder.logits(params, config, ops, hidden).detach()


@pytest.mark.parametrize("tied", [False, True])
def test_the_folded_model_computes_the_same(tied: bool) -> None:
    config = tiny.config("minicpm", tie_word_embeddings=tied)
    params = tiny.params(config, matrix=torch.from_numpy, vector=torch.from_numpy)
    folded_config, folded = fold_to_llama(config, params)
    assert folded_config.model_type == "llama"
    assert (folded_config.scale_emb, folded_config.residual_scale, folded_config.logit_scale) == (1, 1, 1)
    assert not folded_config.tie_word_embeddings
    assert folded.lm_head is not folded.embed_tokens
    expected = logits(config, params)
    np.testing.assert_allclose(logits(folded_config, folded), expected, atol=1e-4 * float(expected.abs().max()))
    # The scalings matter: without them the logits differ by far more.
    assert (logits(folded_config, params) - expected).abs().max() > 0.1


@pytest.mark.parametrize("layout, mins", [("f32", False), ("bf16", False), ("q8", False), ("q4", True)])
def test_packed_weights_keep_their_layout(layout: str, mins: bool) -> None:
    dense = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    weight = pack(dense, layout, 0 if layout in ("f32", "bf16") else 32, mins=mins)
    result = scaled(weight, 0.25)
    assert isinstance(result, PackedTensor)
    assert (result.layout, result.group, result.mins is not None) == (layout, weight.group, mins)
    np.testing.assert_array_equal(result.dequantize(), weight.dequantize() * 0.25)
