"""What a family of checkpoints looks like on disk: one record, and the names that most families share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

HF_MODEL_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embed_tokens": "model.embed_tokens.weight",
        "norm": "model.norm.weight",
        "lm_head": "lm_head.weight",
    }
)
HF_LAYER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "input_layernorm": "model.layers.{}.input_layernorm.weight",
        "q_proj": "model.layers.{}.self_attn.q_proj.weight",
        "k_proj": "model.layers.{}.self_attn.k_proj.weight",
        "v_proj": "model.layers.{}.self_attn.v_proj.weight",
        "q_bias": "model.layers.{}.self_attn.q_proj.bias",
        "k_bias": "model.layers.{}.self_attn.k_proj.bias",
        "v_bias": "model.layers.{}.self_attn.v_proj.bias",
        "q_norm": "model.layers.{}.self_attn.q_norm.weight",
        "k_norm": "model.layers.{}.self_attn.k_norm.weight",
        "o_proj": "model.layers.{}.self_attn.o_proj.weight",
        "post_attention_layernorm": "model.layers.{}.post_attention_layernorm.weight",
        "gate_proj": "model.layers.{}.mlp.gate_proj.weight",
        "up_proj": "model.layers.{}.mlp.up_proj.weight",
        "down_proj": "model.layers.{}.mlp.down_proj.weight",
    }
)
GGUF_MODEL_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embed_tokens": "token_embd.weight",
        "norm": "output_norm.weight",
        "lm_head": "output.weight",
    }
)
GGUF_LAYER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "input_layernorm": "blk.{}.attn_norm.weight",
        "q_proj": "blk.{}.attn_q.weight",
        "k_proj": "blk.{}.attn_k.weight",
        "v_proj": "blk.{}.attn_v.weight",
        "q_bias": "blk.{}.attn_q.bias",
        "k_bias": "blk.{}.attn_k.bias",
        "v_bias": "blk.{}.attn_v.bias",
        "q_norm": "blk.{}.attn_q_norm.weight",
        "k_norm": "blk.{}.attn_k_norm.weight",
        "o_proj": "blk.{}.attn_output.weight",
        "post_attention_layernorm": "blk.{}.ffn_norm.weight",
        "gate_proj": "blk.{}.ffn_gate.weight",
        "up_proj": "blk.{}.ffn_up.weight",
        "down_proj": "blk.{}.ffn_down.weight",
    }
)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Turns between ``<|im_start|>`` and ``<|im_end|>``: what MiniCPM4 and Qwen use where a checkpoint brings no template."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One family. Names with ``{}`` take the layer's index; keys are fields of ``Params`` and ``LayerParams``."""

    model_type: str
    """``model_type`` of config.json"""
    architecture: str
    """the class that config.json names"""
    gguf_arch: str
    """``general.architecture`` of GGUF files"""
    gguf_permuted: bool
    """do GGUF files store q and k with interleaved rotary pairs? (They do where llama.cpp rotates neighbours.)"""
    attention_bias: bool = False
    """do q, k and v have biases when config.json does not say?"""
    qk_norm: bool = False
    """are query and key heads normalised before the rotation?"""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """what config.json means when a key is absent; other keys have the defaults of ``models.config``"""
    extra_keys: frozenset[str] = frozenset()
    """keys of config.json that mean something, or are known to mean nothing, for this family only"""
    hf_model_names: Mapping[str, str] = field(default_factory=lambda: HF_MODEL_NAMES)
    hf_layer_names: Mapping[str, str] = field(default_factory=lambda: HF_LAYER_NAMES)
    gguf_model_names: Mapping[str, str] = field(default_factory=lambda: GGUF_MODEL_NAMES)
    gguf_layer_names: Mapping[str, str] = field(default_factory=lambda: GGUF_LAYER_NAMES)
    chat_template: str | None = None
    """used, and said to be used, where the checkpoint has none"""
