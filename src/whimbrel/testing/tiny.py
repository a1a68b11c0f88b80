"""Tiny models with seeded random weights, one per family, and a tokenizer of 320 tokens.

Each family has something awkward on purpose: llama 3 query heads on 1 key head and tied embeddings, qwen2 biases,
qwen3 heads that are wider together than the hidden state and norms on q and k, minicpm the muP scalings and LongRoPE.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.models.config import ModelConfig
from whimbrel.models.params import LayerParams, Params

FAMILIES = ("llama", "qwen2", "qwen3", "minicpm")
VOCAB_SIZE = 320
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "The whimbrel is a wader. It reads the shore with a long bent bill, and the shore is long. In the autumn it flies "
    "from the north to the south, and in the spring from the south to the north. It eats crabs, and what it finds."
)

Array = npt.NDArray[np.float32]
Convert = Callable[[Array], Any]

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 192,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 4],
    "torch_dtype": "float32",
}
_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 256, "rms_norm_eps": 1e-6},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "rms_norm_eps": 1e-6, "attention_bias": False},
    "minicpm": {
        "architectures": ["MiniCPMForCausalLM"],
        "hidden_size": 256,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 64,
        "rope_scaling": {
            "rope_type": "longrope",
            "long_factor": [1.0 + i / 4 for i in range(32)],
            "short_factor": [1.0 + i / 4 for i in range(32)],
            "original_max_position_embeddings": 1024,
        },
    },
}


def hf_config(family: str = "llama", **changes: Any) -> dict[str, Any]:
    """The ``config.json`` of a tiny model, as a dictionary; ``changes`` replace or add keys."""
    return {"model_type": family, **_COMMON, **_FAMILY[family], **changes}


def config(family: str = "llama", **changes: Any) -> ModelConfig:
    """The same as a ``ModelConfig``."""
    return ModelConfig.from_hf(hf_config(family, **changes))


def weights(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    """Random fp32 arrays under their Hugging Face names; no ``lm_head`` where the embeddings are tied.

    Matrices have variance 1 / K, so that activations stay near 1 and logits differ by more than rounding errors.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for name, shape in _shapes(config).items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if name.endswith("norm.weight"):
            arrays[name] = (1 + values / 8).astype(np.float32)
        elif name.endswith("bias"):
            arrays[name] = (values / 4).astype(np.float32)
        else:
            arrays[name] = (values / np.sqrt(shape[-1])).astype(np.float32)
    return arrays


def params(config: ModelConfig, *, matrix: Convert = np.asarray, vector: Convert = np.asarray, seed: int = 0) -> Params:
    """The same weights as a decoder's parameters; ``matrix`` and ``vector`` convert them for the ops that will run.

    ``params(config, matrix=lambda w: pack(w, "q4", 32))`` for native, ``matrix=torch.from_numpy,
    vector=torch.from_numpy`` for the reference.
    """
    arrays = weights(config, seed)
    embed = matrix(arrays["model.embed_tokens.weight"])
    return Params(
        embed_tokens=embed,
        layers=tuple(_layer(arrays, f"model.layers.{i}.", matrix, vector) for i in range(config.num_hidden_layers)),
        norm=vector(arrays["model.norm.weight"]),
        lm_head=embed if config.tie_word_embeddings else matrix(arrays["lm_head.weight"]),
    )


def write_checkpoint(directory: Path, family: str = "llama", *, seed: int = 0, **changes: Any) -> Path:
    """Write a whole Hugging Face folder (config, safetensors, tokenizer, chat template); returns ``directory``."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights(config(family, **changes), seed), directory / "model.safetensors", metadata={"format": "pt"})
    for name, content in {
        "config.json": hf_config(family, **changes),
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": [2, 4], "do_sample": False},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "<|im_end|>",
            "unk_token": "<unk>",
            "chat_template": CHAT_TEMPLATE,
        },
    }.items():
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    (directory / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    return directory


def tokenizer_json() -> str:
    """A byte-level BPE of ``VOCAB_SIZE`` tokens in the format of the ``tokenizers`` library; any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    text: str = tokenizer.to_str()
    return text


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_size, kv_size = config.num_attention_heads * dim, config.num_key_value_heads * dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q_size, hidden),
        "self_attn.k_proj.weight": (kv_size, hidden),
        "self_attn.v_proj.weight": (kv_size, hidden),
        "self_attn.o_proj.weight": (hidden, q_size),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    if config.attention_bias:
        layer |= {f"self_attn.{name}_proj.bias": (size,) for name, size in zip("qkv", (q_size, kv_size, kv_size))}
    if config.qk_norm:
        layer |= {"self_attn.q_norm.weight": (dim,), "self_attn.k_norm.weight": (dim,)}
    for index in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    return shapes if config.tie_word_embeddings else shapes | {"lm_head.weight": (config.vocab_size, hidden)}


def _layer(arrays: dict[str, Array], prefix: str, matrix: Convert, vector: Convert) -> LayerParams:
    def of(name: str) -> Array:
        return arrays[f"{prefix}{name}"]

    def optional(*names: str) -> Any | None:
        present = f"{prefix}{names[0]}" in arrays
        return vector(np.concatenate([of(name) for name in names])) if present else None

    return LayerParams(
        input_layernorm=vector(of("input_layernorm.weight")),
        q_proj=matrix(of("self_attn.q_proj.weight")),
        k_proj=matrix(of("self_attn.k_proj.weight")),
        v_proj=matrix(of("self_attn.v_proj.weight")),
        qkv_bias=optional(*(f"self_attn.{name}_proj.bias" for name in "qkv")),
        q_norm=optional("self_attn.q_norm.weight"),
        k_norm=optional("self_attn.k_norm.weight"),
        o_proj=matrix(of("self_attn.o_proj.weight")),
        post_attention_layernorm=vector(of("post_attention_layernorm.weight")),
        gate_proj=matrix(of("mlp.gate_proj.weight")),
        up_proj=matrix(of("mlp.up_proj.weight")),
        down_proj=matrix(of("mlp.down_proj.weight")),
    )
