"""The parameters of a decoder: named weights, nothing else.

A *weight* is whatever the bound ops understand: a ``PackedTensor`` for the native ops; a torch tensor or parameter
``[N, K]`` for the reference ops (which accept a ``PackedTensor`` too, and dequantize it). Norm weights and biases are
fp32 vectors of the same world (numpy or torch). The decoder never looks inside.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerParams:
    """One transformer layer; names follow the Hugging Face checkpoints."""

    input_layernorm: Any
    q_proj: Any
    k_proj: Any
    v_proj: Any
    qkv_bias: Any | None = None
    """[(H + 2 G) * D] the three biases after each other (Qwen2), or None"""
    q_norm: Any | None = None
    """[D] RMSNorm over each query head before the rotation (Qwen3), or None"""
    k_norm: Any | None = None
    o_proj: Any
    post_attention_layernorm: Any
    gate_proj: Any
    up_proj: Any
    down_proj: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """A whole decoder."""

    embed_tokens: Any
    layers: tuple[LayerParams, ...]
    norm: Any
    lm_head: Any
    """the very object ``embed_tokens`` where the embeddings are tied"""
