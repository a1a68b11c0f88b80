"""Exporting: a Hugging Face folder becomes a GGUF file that llama.cpp reads.

Matrices keep their type (F32, F16, BF16) or take one of those; vectors become F32. Rows of q and k are reordered
where the family's GGUF files have neighbouring rotary pairs. The tokenizer has to be a byte-level BPE (tokenizer.json).
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, InvalidParameter, UnsupportedModel
from whimbrel.formats.gguf_writer import write_gguf
from whimbrel.formats.rounding import to_bf16, to_float32
from whimbrel.formats.safetensors import Checkpoint
from whimbrel.models.config import ModelConfig, sparse_to_gguf
from whimbrel.models.families import Family
from whimbrel.models.init import hf_shapes
from whimbrel.models.loading import load_config, load_text_side
from whimbrel.models.rope import amplitude
from whimbrel.models.sources import interleaved_rows

Array = npt.NDArray[Any]

TYPES = ("f32", "f16", "bf16")


def export_gguf(folder: str | Path, path: str | Path, *, dtype: str | None = None) -> Path:
    """Write the checkpoint in ``folder`` as one GGUF file; ``dtype`` (f32, f16, bf16) converts its matrices.

    Raises ``UnsupportedModel`` for what GGUF can't say (other tokenizers, rotary scalings without a key).
    """
    if dtype is not None and dtype not in TYPES:
        raise InvalidParameter(f"dtype {dtype!r} is not possible; choose one of {', '.join(TYPES)}")
    source, target = Path(folder), Path(path)
    config = load_config(source)
    checkpoint = Checkpoint(source)
    metadata = _architecture(config) | _vocabulary(source, config)
    tensors: dict[str, Array] = _rope_tensors(config)
    for hf_name, gguf_name in _names(config).items():
        array = checkpoint.array(hf_name)
        order = _order(config, gguf_name)
        tensors[gguf_name] = _converted(array if order is None else array[order], dtype)
    write_gguf(target, metadata, tensors)
    return target


def _names(config: ModelConfig) -> dict[str, str]:
    """Hugging Face's name -> GGUF's, of every tensor of the network."""
    family: Family = config.family
    pairs = [(family.hf_model_names[field], name) for field, name in family.gguf_model_names.items()]
    for field, name in family.gguf_layer_names.items():
        for layer in range(config.num_hidden_layers):
            pairs.append((family.hf_layer_names[field].format(layer), name.format(layer)))
    present = hf_shapes(config)
    return {hf: gguf for hf, gguf in pairs if hf in present}


def _order(config: ModelConfig, name: str) -> npt.NDArray[np.intp] | None:
    """Row order that makes rotary pairs neighbours: the inverse of what the loader applies."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    part = name.split(".")[-2]
    if part not in heads or not config.family.gguf_permuted:
        return None
    return np.argsort(interleaved_rows(heads[part], config.head_dim))


def _converted(array: Array, dtype: str | None) -> Array:
    if array.ndim == 1 or dtype == "f32":
        return to_float32(array)
    if dtype == "f16":
        return to_float32(array).astype(np.float16)
    return to_bf16(to_float32(array)) if dtype == "bf16" else np.asarray(array)


def _architecture(config: ModelConfig) -> dict[str, Any]:
    arch = config.family.gguf_arch
    keys: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope.theta),
    }
    if config.model_type == "minicpm":
        keys["embedding_scale"] = float(config.scale_emb)
        keys["residual_scale"] = float(config.residual_scale)
        keys["logit_scale"] = 1 / config.logit_scale
    if config.sparse is not None:
        keys |= sparse_to_gguf(config.sparse)
    keys |= _rope_keys(config)
    return {"general.architecture": arch, "general.name": config.model_type} | {
        f"{arch}.{key}": value for key, value in keys.items()
    }


def _rope_keys(config: ModelConfig) -> dict[str, Any]:
    rope = config.rope
    if rope.kind == "default":
        return {}
    if rope.kind == "llama3":
        raise UnsupportedModel("exporting rope scaling llama3 to GGUF is not implemented; use its published GGUF file")
    original = rope.original_max_position_embeddings or config.max_position_embeddings
    keys: dict[str, Any] = {"rope.scaling.type": rope.kind, "rope.scaling.original_context_length": original}
    if rope.kind in ("linear", "yarn"):
        keys["rope.scaling.factor"] = float(rope.factor)
    m = amplitude(rope, config.max_position_embeddings)
    if rope.kind == "yarn":
        m /= 0.1 * math.log(rope.factor) + 1 if rope.factor > 1 else 1.0
    if not math.isclose(m, 1.0):
        keys["rope.scaling.attn_factor"] = m
    return keys


def _rope_tensors(config: ModelConfig) -> dict[str, Array]:
    if config.rope.kind != "longrope":
        return {}
    return {
        "rope_factors_long.weight": np.asarray(config.rope.long_factor, np.float32),
        "rope_factors_short.weight": np.asarray(config.rope.short_factor, np.float32),
    }


def _vocabulary(folder: Path, config: ModelConfig) -> dict[str, Any]:
    """The tokenizer.ggml keys of a byte-level tokenizer.json whose text is cut as GPT-2 does."""
    path = folder / "tokenizer.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        model, added = data["model"], data["added_tokens"]
        vocabulary, merges = dict(model["vocab"]), model["merges"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: no BPE tokenizer can be read here: {error}") from None
    cut = data.get("pre_tokenizer") or {}
    if cut.get("type") != "ByteLevel" or not cut.get("use_regex", True) or cut.get("add_prefix_space"):
        raise UnsupportedModel(f"{path}: only byte-level tokenizers that cut text as GPT-2 does can be exported")
    vocabulary |= {token["content"]: token["id"] for token in added}
    tokens = [f"<unused-{i}>" for i in range(config.vocab_size)]
    types = [5] * config.vocab_size
    for name, id in vocabulary.items():
        tokens[id], types[id] = name, 1
    for token in added:
        types[token["id"]] = 3 if token["special"] else 4
    keys: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": types,
        "merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in merges],
        "add_bos_token": data.get("post_processor") is not None,
    }
    template = load_text_side(folder).chat_template
    if template is not None:
        keys["chat_template"] = template.source
    if config.bos_token_id is not None:
        keys["bos_token_id"] = config.bos_token_id
    if config.eos_token_ids:
        keys["eos_token_id"] = config.eos_token_ids[0]
    prefixes = {"chat_template": "tokenizer."}
    return {prefixes.get(key, "tokenizer.ggml.") + key: value for key, value in keys.items()}
