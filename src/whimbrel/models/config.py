"""ModelConfig: what a network is, in one frozen record; read from Hugging Face's config.json or GGUF metadata.

The muP scalings are stored as the decoder uses them: ``residual_scale = scale_depth / sqrt(num_hidden_layers)`` and
``logit_scale = dim_model_base / hidden_size``. What a checkpoint asks for and this package can't do raises
``UnsupportedModel``; keys that nobody here knows are logged and kept in ``unknown_keys``.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import FormatError, UnsupportedModel
from whimbrel.models.families import FAMILIES, Family
from whimbrel.models.rope import RopeConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder. Names and meaning follow Hugging Face's config.json."""

    model_type: str
    """llama, minicpm, qwen2 or qwen3"""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeConfig = field(default_factory=RopeConfig)
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    """biases on q, k and v (never on o)"""
    qk_norm: bool = False
    """RMSNorm over each query and key head, before the rotation"""
    scale_emb: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    sparse: SparseConfig | None = None
    """InfLLM v2, where the checkpoint was trained for it or somebody asked; None attends to everything"""
    unknown_keys: tuple[str, ...] = ()
    """keys of the source that were not understood"""

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise FormatError(f"model configuration: {name} is {value!r}, a positive whole number was expected")
        if self.num_attention_heads % self.num_key_value_heads:
            raise FormatError(
                f"model configuration: {self.num_attention_heads} query heads can't share "
                f"{self.num_key_value_heads} key/value heads evenly"
            )
        if self.head_dim % 2:
            raise UnsupportedModel(f"head_dim {self.head_dim} is odd; the rotary embedding turns pairs")

    @property
    def attention_scale(self) -> float:
        """The factor of q . k before the softmax."""
        return 1 / math.sqrt(self.head_dim)

    @property
    def family(self) -> Family:
        """Names and defaults of the checkpoint's family."""
        return FAMILIES[self.model_type]

    def num_parameters(self) -> int:
        """Weights, norms and biases; tied embeddings count once."""
        h, d = self.hidden_size, self.head_dim
        qkv = (self.num_attention_heads + 2 * self.num_key_value_heads) * d
        layer = qkv * h + self.num_attention_heads * d * h + 3 * h * self.intermediate_size + 2 * h
        layer += (qkv if self.attention_bias else 0) + (2 * d if self.qk_norm else 0)
        heads = 1 if self.tie_word_embeddings else 2
        return heads * self.vocab_size * h + self.num_hidden_layers * layer + h

    @staticmethod
    def from_hf(data: Mapping[str, Any]) -> "ModelConfig":
        """Read config.json. Raises ``FormatError`` (missing or impossible values) and ``UnsupportedModel``."""
        return _from_hf(data)

    @staticmethod
    def from_gguf(metadata: Mapping[str, Any], tensors: Iterable[str] = ("output.weight",)) -> "ModelConfig":
        """Read GGUF metadata; ``tensors`` are the names in the file (without output.weight embeddings are tied)."""
        return _from_gguf(metadata, frozenset(tensors))

    def to_hf(self) -> dict[str, Any]:
        """config.json as the family publishes it; ``from_hf`` of it gives this configuration again."""
        return _to_hf(self)


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)

_READ_KEYS = frozenset(_SIZES) | {
    "model_type", "architectures", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters",
    "tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act", "bos_token_id", "eos_token_id",
    "quantization_config", "sparse_config", "original_max_position_embeddings", "partial_rotary_factor",
}  # fmt: skip
_IGNORED_KEYS = frozenset({
    # training, bookkeeping, and options of the transformers library that don't change the function computed
    "_name_or_path", "_attn_implementation_autoset", "attention_dropout", "auto_map", "chunk_size_feed_forward",
    "dtype", "hidden_dropout", "id2label", "initializer_range", "is_encoder_decoder", "label2id",
    "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type", "return_dict",
    "rope_interleaved", "torch_dtype", "transformers.js_config", "transformers_version", "use_cache",
})  # fmt: skip


# Hugging Face.


def _from_hf(data: Mapping[str, Any]) -> ModelConfig:
    family = _family(data)
    values = {**family.defaults, **{key: value for key, value in data.items() if value is not None}}
    _refuse(values, family)
    hidden, heads = _whole(values, "hidden_size"), _whole(values, "num_attention_heads")
    layers = _whole(values, "num_hidden_layers")
    context = _whole(values, "max_position_embeddings")
    unknown = tuple(sorted(set(data) - _READ_KEYS - _IGNORED_KEYS - family.extra_keys))
    if unknown:
        log.warning("config.json: not understood, and without effect here: %s", ", ".join(unknown))
    return ModelConfig(
        model_type=family.model_type,
        vocab_size=_whole(values, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_whole(values, "intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_whole(values, "num_key_value_heads", heads),
        head_dim=_whole(values, "head_dim", hidden // heads),
        rms_norm_eps=_real(values, "rms_norm_eps", 1e-6),
        max_position_embeddings=context,
        rope=_rope_from_hf(values),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        attention_bias=bool(values.get("attention_bias", family.attention_bias)),
        qk_norm=family.qk_norm,
        scale_emb=_real(values, "scale_emb", 1.0),
        residual_scale=_real(values, "scale_depth", math.sqrt(layers)) / math.sqrt(layers),
        logit_scale=_real(values, "dim_model_base", hidden) / hidden,
        bos_token_id=next(iter(_token_ids(values, "bos_token_id")), None),
        eos_token_ids=_token_ids(values, "eos_token_id"),
        sparse=SparseConfig.from_hf(values["sparse_config"]) if values.get("sparse_config") else None,
        unknown_keys=unknown,
    )


def _family(data: Mapping[str, Any]) -> Family:
    model_type = data.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise UnsupportedModel(
            f"config.json: model_type {model_type!r} is not supported; this build runs {', '.join(FAMILIES)}"
        )
    named = _list(data, "architectures") or [family.architecture]
    if family.architecture not in named:
        raise UnsupportedModel(
            f"config.json: architecture {', '.join(map(str, named))} is not supported; "
            f"for model_type {model_type} it is {family.architecture}"
        )
    return family


def _refuse(values: Mapping[str, Any], family: Family) -> None:
    """Raise for options that change the network in ways that the decoder does not have."""
    refused = {
        "hidden_act": values.get("hidden_act", "silu") != "silu",
        "mlp_bias": bool(values.get("mlp_bias")),
        "use_sliding_window": bool(values.get("use_sliding_window")),
        "layer_types": any(kind != "full_attention" for kind in _list(values, "layer_types")),
        "partial_rotary_factor": values.get("partial_rotary_factor", 1) != 1,
        # Biases of Llama checkpoints include one on o_proj; Qwen2's don't.
        "attention_bias": bool(values.get("attention_bias")) and not family.attention_bias,
        "quantization_config": "quantization_config" in values,
    }
    for key, is_refused in refused.items():
        if is_refused:
            raise UnsupportedModel(
                f"config.json: {key} = {_short(values[key])} is not supported for {family.model_type}"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _whole(values: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        found = "is missing" if value is None else f"is {_short(value)}"
        raise FormatError(f"config: {key} {found}, a positive whole number was expected")
    return value


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    value = values.get(key) or []
    if not isinstance(value, list | tuple):
        raise FormatError(f"config: {key} is {_short(value)}, a list was expected")
    return list(value)


def _token_ids(values: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """No id, one, or a list of them."""
    value = values.get(key)
    ids = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    if not all(isinstance(id, int) and not isinstance(id, bool) and id >= 0 for id in ids):
        raise FormatError(f"config: {key} is {_short(value)}, token ids were expected")
    return tuple(ids)


def _real(values: Mapping[str, Any], key: str, default: float) -> float:
    value = values.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise FormatError(f"config: {key} is {_short(value)}, a number was expected")
    return float(value)


def _rope_from_hf(values: Mapping[str, Any]) -> RopeConfig:
    """``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (before)."""
    rope: Any = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
        raise UnsupportedModel("config.json: rotary parameters that differ between layers are not supported")
    rope = {key: value for key, value in rope.items() if value is not None}
    kind = rope.get("rope_type", rope.get("type", "default"))
    original = rope.get("original_max_position_embeddings", values.get("original_max_position_embeddings"))
    optional = {key: _real(rope, key, 0.0) for key in ("mscale", "mscale_all_dim", "attention_factor") if key in rope}
    return RopeConfig(
        kind=str(kind),
        theta=_real(rope, "rope_theta", _real(values, "rope_theta", 10000.0)),
        factor=_real(rope, "factor", 1.0),
        original_max_position_embeddings=None if original is None else _whole({"original": original}, "original"),
        low_freq_factor=_real(rope, "low_freq_factor", 1.0),
        high_freq_factor=_real(rope, "high_freq_factor", 4.0),
        beta_fast=_real(rope, "beta_fast", 32.0),
        beta_slow=_real(rope, "beta_slow", 1.0),
        truncate=bool(rope.get("truncate", True)),
        short_factor=_reals(rope, "short_factor"),
        long_factor=_reals(rope, "long_factor"),
        **optional,
    )


def _reals(values: Mapping[str, Any], key: str) -> tuple[float, ...]:
    return tuple(_real({key: value}, key, 0.0) for value in _list(values, key))


def _to_hf(config: ModelConfig) -> dict[str, Any]:
    eos = list(config.eos_token_ids)
    data: dict[str, Any] = {
        "architectures": [config.family.architecture],
        "model_type": config.model_type,
        **{name: getattr(config, name) for name in _SIZES},
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope.theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else (eos or None),
        "torch_dtype": "bfloat16",
    }
    if config.rope.kind != "default":
        data["rope_scaling"] = _rope_to_hf(config.rope)
    if config.attention_bias:
        data["attention_bias"] = True
    if config.sparse is not None:
        data["sparse_config"] = config.sparse.to_hf()
    if config.model_type == "minicpm":
        data["scale_emb"] = _tidy(config.scale_emb)
        data["scale_depth"] = _tidy(config.residual_scale * math.sqrt(config.num_hidden_layers))
        data["dim_model_base"] = _tidy(config.logit_scale * config.hidden_size)
    return data


def _rope_to_hf(rope: RopeConfig) -> dict[str, Any]:
    plain = RopeConfig()
    names = [name for name in RopeConfig.__dataclass_fields__ if name not in ("kind", "theta")]
    changed = {name: getattr(rope, name) for name in names if getattr(rope, name) != getattr(plain, name)}
    return {"rope_type": rope.kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in changed.items()}


def _tidy(value: float) -> float:
    """A number as it was before it was divided and multiplied by a root: 1.4 and not 1.3999999999999997."""
    rounded = float(f"{value:.12g}")
    return int(rounded) if rounded.is_integer() else rounded


# GGUF.


def _from_gguf(metadata: Mapping[str, Any], tensors: frozenset[str]) -> ModelConfig:
    arch = metadata.get("general.architecture")
    family = next((f for f in FAMILIES.values() if isinstance(arch, str) and f.gguf_arch == arch), None)
    if family is None:
        known = ", ".join(f.gguf_arch for f in FAMILIES.values())
        raise UnsupportedModel(f"GGUF architecture {arch!r} is not supported; this build runs {known}")
    prefix = f"{arch}."
    keys = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    _refuse_gguf(keys, family)
    heads, hidden = _whole(keys, "attention.head_count"), _whole(keys, "embedding_length")
    layers, context = _whole(keys, "block_count"), _whole(keys, "context_length")
    unknown = tuple(sorted(prefix + key for key in set(keys) - _GGUF_KEYS))
    if unknown:
        log.warning("GGUF: not understood, and without effect here: %s", ", ".join(unknown))
    return ModelConfig(
        model_type=family.model_type,
        vocab_size=_whole(keys, "vocab_size", _count(metadata.get("tokenizer.ggml.tokens")) or None),
        hidden_size=hidden,
        intermediate_size=_whole(keys, "feed_forward_length"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=_whole(keys, "attention.head_count_kv", heads),
        head_dim=_whole(keys, "attention.key_length", hidden // heads),
        rms_norm_eps=_single(keys, "attention.layer_norm_rms_epsilon", 1e-5),
        max_position_embeddings=context,
        rope=_rope_from_gguf(keys),
        tie_word_embeddings="output.weight" not in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors or family.attention_bias,
        qk_norm=family.qk_norm,
        sparse=_sparse_from_gguf(keys),
        **_scales_from_gguf(keys, family, layers, hidden),
        bos_token_id=next(iter(_token_ids(metadata, "tokenizer.ggml.bos_token_id")), None),
        eos_token_ids=tuple(
            dict.fromkeys(id for key in ("eos", "eot") for id in _token_ids(metadata, f"tokenizer.ggml.{key}_token_id"))
        ),
        unknown_keys=unknown,
    )


_GGUF_SPARSE_KEYS = {field.name: f"attention.sparse.{field.name}" for field in fields(SparseConfig)}
"""Our own keys: no other program writes or reads a mark of sparse attention."""

_GGUF_KEYS = frozenset({
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "block_count", "context_length", "embedding_length", "embedding_scale",
    "expert_count", "expert_used_count", "feed_forward_length", "logit_scale", "residual_scale",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.attn_factor", "rope.scaling.factor",
    "rope.scaling.finetuned", "rope.scaling.original_context_length", "rope.scaling.type",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "vocab_size", "attention.sliding_window",
    "tensor_data_layout", *_GGUF_SPARSE_KEYS.values(),
})  # fmt: skip


def _count(tokens: Any) -> int:
    return len(tokens) if isinstance(tokens, Sequence) and not isinstance(tokens, str) else 0


def _refuse_gguf(keys: Mapping[str, Any], family: Family) -> None:
    heads, hidden = _whole(keys, "attention.head_count"), _whole(keys, "embedding_length")
    head_dim = _whole(keys, "attention.key_length", hidden // heads)
    refused = {
        "expert_count": bool(keys.get("expert_count")),
        "attention.sliding_window": bool(keys.get("attention.sliding_window")),
        "attention.value_length": keys.get("attention.value_length", head_dim) != head_dim,
        "rope.dimension_count": keys.get("rope.dimension_count", head_dim) != head_dim,
    }
    for key, is_refused in refused.items():
        if is_refused:
            raise UnsupportedModel(f"GGUF: {family.gguf_arch}.{key} = {_short(keys[key])} is not supported")


def sparse_to_gguf(sparse: SparseConfig) -> dict[str, Any]:
    """The mark as metadata keys, without the architecture's prefix."""
    return {_GGUF_SPARSE_KEYS[name]: value for name, value in sparse.to_hf().items()}


def _sparse_from_gguf(keys: Mapping[str, Any]) -> SparseConfig | None:
    found = {name: keys[key] for name, key in _GGUF_SPARSE_KEYS.items() if key in keys}
    return SparseConfig.from_hf(found) if found else None


def _scales_from_gguf(keys: Mapping[str, Any], family: Family, layers: int, hidden: int) -> dict[str, Any]:
    """The muP scalings; files of the first converters lack the keys and mean MiniCPM's values."""
    if family.model_type != "minicpm":
        return {}
    return {
        "scale_emb": _single(keys, "embedding_scale", 12.0),
        "residual_scale": _single(keys, "residual_scale", 1.4 / math.sqrt(layers)),
        # What the file has is hidden_size / dim_model_base.
        "logit_scale": 1 / _positive(keys, "logit_scale", hidden / 256),
    }


def _single(keys: Mapping[str, Any], key: str, default: float) -> float:
    """A number that the file has in fp32, as the decimal that was meant: 1e-05 and not 9.999999747378752e-06."""
    value = _real(keys, key, default)
    return float(str(np.float32(value))) if abs(value) < 1e38 else value


def _positive(keys: Mapping[str, Any], key: str, default: float) -> float:
    value = _single(keys, key, default)
    if value <= 0:
        raise FormatError(f"config: {key} is {value}, a positive number was expected")
    return value


def _rope_from_gguf(keys: Mapping[str, Any]) -> RopeConfig:
    """Factors of ``rope_freqs`` and ``rope_factors`` tensors are added by the loader."""
    kind = str(keys.get("rope.scaling.type", "none"))
    original = keys.get("rope.scaling.original_context_length")
    attention_factor = _single(keys, "rope.scaling.attn_factor", 1.0)
    factor = _single(keys, "rope.scaling.factor", 1.0)
    if kind == "yarn":
        # llama.cpp multiplies its own 0.1 ln(factor) + 1 by this key.
        attention_factor *= 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    return RopeConfig(
        kind="default" if kind == "none" else kind,
        theta=_single(keys, "rope.freq_base", 10000.0),
        factor=factor or 1.0,
        original_max_position_embeddings=None if original is None else _whole({"original": original}, "original"),
        beta_fast=_single(keys, "rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=_single(keys, "rope.scaling.yarn_beta_slow", 1.0),
        attention_factor=attention_factor if kind in ("yarn", "longrope") else None,
    )
