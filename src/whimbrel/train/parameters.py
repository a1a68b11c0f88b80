"""The decoder's parameters as trainable torch tensors, under the names of a Hugging Face checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from whimbrel.models.config import ModelConfig
from whimbrel.models.init import hf_shapes
from whimbrel.models.params import LayerParams, Params

Parameters = dict[str, nn.Parameter]
"""Hugging Face name -> tensor; the order is that of ``hf_shapes``."""


def random_parameters(config: ModelConfig, seed: int = 0) -> Parameters:
    """Fresh ones: matrices normal with variance 1 / inputs, those that write to the residual stream ``sqrt(2 L)`` smaller."""
    generator = torch.Generator().manual_seed(seed)
    depth = (2 * config.num_hidden_layers) ** -0.5
    parameters = {}
    for name, shape in hf_shapes(config).items():
        if name.endswith("norm.weight"):
            values = torch.ones(shape)
        elif name.endswith("bias"):
            values = torch.zeros(shape)
        else:
            values = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
            values *= depth if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
        parameters[name] = nn.Parameter(values)
    return parameters


def trainable(tensors: Mapping[str, Tensor]) -> Parameters:
    """Copies to go on from: what is trained leaves a loaded checkpoint's tensors as they are."""
    return {name: nn.Parameter(tensor.detach().clone()) for name, tensor in tensors.items()}


def decoder_params(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Params:
    """The same tensors as ``models.decoder`` takes them; nothing is copied. Raises ``KeyError`` for a missing name."""
    family = config.family
    optional = {"q_norm", "k_norm"} if config.qk_norm else set()
    fields = set(LayerParams.__dataclass_fields__) - {"qkv_bias", "q_norm", "k_norm"} | optional

    def layer(index: int) -> LayerParams:
        values = {field: tensors[family.hf_layer_names[field].format(index)] for field in fields}
        if config.attention_bias:
            values["qkv_bias"] = torch.cat([tensors[family.hf_layer_names[f"{x}_bias"].format(index)] for x in "qkv"])
        return LayerParams(**values)

    embed = tensors[family.hf_model_names["embed_tokens"]]
    return Params(
        embed_tokens=embed,
        layers=tuple(layer(index) for index in range(config.num_hidden_layers)),
        norm=tensors[family.hf_model_names["norm"]],
        lm_head=embed if config.tie_word_embeddings else tensors[family.hf_model_names["lm_head"]],
    )


def from_decoder(config: ModelConfig, params: Params) -> Parameters:
    """Trainable copies, in fp32, of a loaded model's weights; packed ones are dequantized."""
    family = config.family
    named = {family.hf_model_names["embed_tokens"]: params.embed_tokens, family.hf_model_names["norm"]: params.norm}
    if not config.tie_word_embeddings:
        named[family.hf_model_names["lm_head"]] = params.lm_head
    for index, layer in enumerate(params.layers):
        for field in LayerParams.__dataclass_fields__:
            value = getattr(layer, field)
            if value is not None and field != "qkv_bias":
                named[family.hf_layer_names[field].format(index)] = value
        if layer.qkv_bias is not None:
            d = config.head_dim
            sizes = [config.num_attention_heads * d, *[config.num_key_value_heads * d] * 2]
            for x, bias in zip("qkv", torch.as_tensor(layer.qkv_bias).split(sizes), strict=True):
                named[family.hf_layer_names[f"{x}_bias"].format(index)] = bias
    return {name: nn.Parameter(_dense(value)) for name, value in named.items()}


def _dense(weight: Any) -> Tensor:
    values = weight.dequantize() if hasattr(weight, "dequantize") and not isinstance(weight, Tensor) else weight
    return torch.as_tensor(values).detach().float().clone()
