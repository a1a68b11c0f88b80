"""Fold the muP scalings of MiniCPM into the weights: a plain Llama that computes the same function.

Embeddings times ``scale_emb``, ``o_proj`` and ``down_proj`` times ``residual_scale``, the head times ``logit_scale``.
Tied embeddings come apart, since they are scaled differently. Source: MiniCPM (2024), section 4.
"""

from dataclasses import replace
from typing import Any

from whimbrel.formats.packed import PackedTensor, empty, pack_rows
from whimbrel.models.config import ModelConfig
from whimbrel.models.params import LayerParams, Params


def fold_to_llama(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Configuration (``model_type`` llama, all scales 1) and parameters of the folded model.

    Weights may be arrays, torch tensors or ``PackedTensor``; packed ones keep their layout. What is not scaled is
    shared with ``params``.
    """
    folded = replace(
        config,
        model_type="llama",
        tie_word_embeddings=False,
        scale_emb=1.0,
        residual_scale=1.0,
        logit_scale=1.0,
    )
    layers = tuple(_fold_layer(layer, config.residual_scale) for layer in params.layers)
    return folded, replace(
        params,
        embed_tokens=scaled(params.embed_tokens, config.scale_emb),
        layers=layers,
        lm_head=scaled(params.lm_head, config.logit_scale),
    )


def _fold_layer(layer: LayerParams, scale: float) -> LayerParams:
    return replace(layer, o_proj=scaled(layer.o_proj, scale), down_proj=scaled(layer.down_proj, scale))


def scaled(weight: Any, factor: float) -> Any:
    """``factor * weight``. Of quantized weights the scales and mins change, so the only new rounding is fp16's."""
    if not isinstance(weight, PackedTensor):
        return weight * factor
    out = empty(weight.layout, weight.shape, weight.group, mins=weight.mins is not None)
    if weight.scales is None or out.scales is None:
        return pack_rows(lambda start, stop: weight.dequantize(start, stop) * factor, out)
    out.codes[...] = weight.codes
    out.scales[...] = weight.scales.astype("f4") * factor
    if weight.mins is not None and out.mins is not None:
        out.mins[...] = weight.mins.astype("f4") * factor
    return out
