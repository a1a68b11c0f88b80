"""The network: one pure function over a table of ops.

``forward`` computes hidden states, ``logits`` the scores over the vocabulary. Written once; which arithmetic runs is
the ``ops`` table that was bound when the model was loaded: ``native`` (numpy and C++), ``reference`` (torch,
differentiable). Covers MiniCPM4 with its muP scalings, Llama, Qwen2 (bias) and Qwen3 (query and key norm):

    x      = scale_emb * Embed(ids)
    x      = x + residual_scale * Attention(RMSNorm(x))         residual_scale = scale_depth / sqrt(num_hidden_layers)
    x      = x + residual_scale * down(silu(gate(n)) * up(n))   n = RMSNorm(x)
    logits = logit_scale * lm_head(RMSNorm(x))                  logit_scale = dim_model_base / hidden_size

Where ``config.sparse`` is set, each query of a long sequence attends to chosen blocks only (InfLLM v2); which ones, its
rotated query and the semantic kernels of the keys decide. Plain Llama models have all three scales at 1. Source: MiniCPM (2024), section 4 (Tensor Programs scaling); MiniCPM4
technical report, section 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from whimbrel.attention.inputs import AttentionInputs, KVView
from whimbrel.models.config import ModelConfig
from whimbrel.models.params import LayerParams, Params
from whimbrel.ops.table import OpTable


def forward(
    params: Params,
    config: ModelConfig,
    ops: OpTable,
    rope: Any,
    inputs: AttentionInputs,
    cache: KVView,
    run_layer: Callable[[Callable[[Any], Any], Any], Any] | None = None,
) -> Any:
    """Run all layers over the tokens of one step.

    ``rope`` is the table of ``models.rope`` (cosines and sines ``[positions, D]`` halves). Writes this step's keys
    and values into ``cache``. ``run_layer(layer, x)`` runs a layer in place of a plain call: training computes some of
    them a second time instead of keeping what is inside. Returns the residual stream ``[T, hidden_size]`` in fp32,
    before the final norm.
    """
    x = ops.embedding(inputs.token_ids, params.embed_tokens, scale=config.scale_emb)
    for index, layer in enumerate(params.layers):
        if run_layer is None:
            x = block(x, layer, index, config, ops, rope, inputs, cache)
        else:
            step = partial(
                block, layer=layer, index=index, config=config, ops=ops, rope=rope, inputs=inputs, cache=cache
            )
            x = run_layer(step, x)
    return x


def block(
    x: Any,
    layer: LayerParams,
    index: int,
    config: ModelConfig,
    ops: OpTable,
    rope: Any,
    inputs: AttentionInputs,
    cache: KVView,
) -> Any:
    """One layer, attention and feed-forward, over the residual stream ``x`` ``[T, hidden_size]``."""
    qkv = ops.norm_linear(
        x,
        layer.input_layernorm,
        (layer.q_proj, layer.k_proj, layer.v_proj),
        eps=config.rms_norm_eps,
        bias=layer.qkv_bias,
    )
    q = ops.rotary_write(
        qkv, rope, inputs, cache, index, q_norm=layer.q_norm, k_norm=layer.k_norm, eps=config.rms_norm_eps
    )
    blocks = None
    if config.sparse is not None:
        ops.semantic_kernels(inputs, cache, index, sparse=config.sparse, rope=rope)
        blocks = ops.select_blocks(
            q, inputs, cache, index, scale=config.attention_scale, sparse=config.sparse, rope=rope
        )
    attended = ops.attend(q, inputs, cache, index, scale=config.attention_scale, blocks=blocks)
    x = ops.linear_residual(attended, layer.o_proj, x, scale=config.residual_scale)
    gated = ops.norm_swiglu(x, layer.post_attention_layernorm, layer.gate_proj, layer.up_proj, eps=config.rms_norm_eps)
    return ops.linear_residual(gated, layer.down_proj, x, scale=config.residual_scale)


def logits(params: Params, config: ModelConfig, ops: OpTable, hidden: Any) -> Any:
    """Scores over the vocabulary for the given rows of ``forward``'s result: ``[R, hidden] -> [R, vocab_size]`` fp32."""
    return ops.norm_linear(hidden, params.norm, (params.lm_head,), eps=config.rms_norm_eps, scale=config.logit_scale)
