"""A checkpoint folder of MiniCPM as a GGUF file of arch ``minicpm``, as llama.cpp's own converter writes one.

Facts of that format: the rows of q and k are permuted so that rotary pairs are neighbours; ``logit_scale`` is stored
as hidden_size / dim_model_base (the graph divides by it), ``residual_scale`` as scale_depth / sqrt(layers); LongRoPE
factors are two tensors of head_dim / 2.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from whimbrel.formats.gguf_writer import write_gguf

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(folder: Path, target: Path) -> Path:
    """Write ``target``; matrices and norms in F32. Returns it."""
    config = json.loads((folder / "config.json").read_text())
    arrays = load_file(folder / "model.safetensors")
    tensors = {name_in_gguf(name): permuted(name, array, config) for name, array in arrays.items()}
    rope = config["rope_scaling"]
    for kind in ("long", "short"):
        tensors[f"rope_factors_{kind}.weight"] = np.asarray(rope[f"{kind}_factor"], np.float32)
    write_gguf(target, metadata(config, json.loads((folder / "tokenizer.json").read_text())), tensors)
    return target


def name_in_gguf(name: str) -> str:
    """``model.layers.0.mlp.up_proj.weight`` -> ``blk.0.ffn_up.weight``."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def permuted(name: str, array: npt.NDArray[np.float32], config: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Rows of q and k with the pairs (i, i + D/2) moved next to each other; everything else as it is."""
    for part, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
        if part in name:
            n, k = array.shape
            return array.reshape(heads, 2, n // heads // 2, k).swapaxes(1, 2).reshape(n, k)
    return array


def metadata(config: dict[str, Any], tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters and vocabulary."""
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["content"] for token in tokenizer["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    values = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.dimension_count": config["head_dim"],
        "rope.freq_base": config["rope_theta"],
        "rope.scaling.type": "longrope",
        "vocab_size": config["vocab_size"],
        "embedding_scale": float(config["scale_emb"]),
        "residual_scale": config["scale_depth"] / math.sqrt(config["num_hidden_layers"]),
        "logit_scale": config["hidden_size"] / config["dim_model_base"],
    }
    return {
        "general.architecture": "minicpm",
        "general.name": "random",
        "general.file_type": 0,
        **{f"minicpm.{name}": value for name, value in values.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary],
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token, _ in vocabulary],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"][0],
        "tokenizer.ggml.add_bos_token": False,
    }
