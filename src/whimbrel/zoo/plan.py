"""Does it fit, and how fast can it be? From a configuration alone; no weight is read, nothing is loaded.

- weights: every matrix in its layout (4 bit is 4.5 bits with its scales)
- cache: blocks of 64 tokens for one sequence of the asked context, with their semantic kernels where it is sparse
- scratch: activations of one prefill chunk, and the logits of one token
- program: Python, numpy, the tokenizer

A decoded token reads every weight but the embedding table, and all keys and values before it (sparse: those of the
chosen blocks, and all semantic kernels), once: the memory's read bandwidth divided by these bytes is the most tokens a
second that any program can decode.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whimbrel import hardware
from whimbrel.attention.keys import first_sparse_position
from whimbrel.engine.blocks import blocks_for
from whimbrel.engine.limits import block_bytes
from whimbrel.errors import DoesNotFit, FormatError, InvalidParameter, ModelNotFound
from whimbrel.models.attention import check_attention, with_attention
from whimbrel.models.attention import describe as in_words
from whimbrel.models.config import ModelConfig
from whimbrel.models.context import extended, trained_context
from whimbrel.models.presets import PRESETS
from whimbrel.zoo.catalog import DEFAULT_MODEL
from whimbrel.zoo.references import parse_reference
from whimbrel.zoo.store import resolve

BITS = {"f32": 32.0, "f16": 16.0, "bf16": 16.0, "q8": 8.5, "q4": 4.5}
"""Bits of one weight in memory, scales of groups of 32 included."""

_STORED_BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_0": 4.5, "Q4_1": 5, "Q4_K": 5, "Q5_K": 9, "Q6_K": 9}
"""Bits of one weight after repacking, for each GGUF type."""

_PREFILL_CHUNK = 512
_PROGRAM_BYTES = 80_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Bytes, and tokens a second. ``decode_limit`` is None where no bandwidth was measured."""

    model: str
    parameters: int
    layout: str
    context: int
    kv_dtype: str
    weights: int
    cache: int
    scratch: int
    program: int
    total: int
    available: int
    fits: bool
    longest_context: int
    """the longest that fits into the memory that is free, at most what the model has published frequencies for"""
    read_bandwidth: float | None
    decode_limit: float | None
    """tokens a second at the full context"""
    decode_limit_empty: float | None
    """tokens a second at the start"""
    attention: str = "dense"
    """in words"""
    notes: tuple[str, ...] = ()
    """what would be logged when the model is opened like this"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """A model as its files describe it."""

    config: ModelConfig
    stored: str
    """how most of its weights are stored: "Q4_1", "bfloat16" """
    weights: float | None = None
    """bytes in memory as stored, where the file tells each tensor's type"""
    embedding: float | None = None
    """of these, bytes of the embedding table"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sizes:
    weights: float
    read_per_token: float
    layout: str


def plan(
    model: str | None,
    *,
    context: int | None = None,
    weights: str | None = None,
    kv_dtype: str = "bf16",
    attention: str = "auto",
    sparse: Mapping[str, Any] | None = None,
    offline: bool = False,
    bandwidth: float | None = None,
) -> Plan:
    """Memory and speed limit of ``model`` (name, reference or path; it need not be here).

    Raises ModelNotFound, FormatError, UnsupportedModel or InvalidParameter.
    """
    check_attention(attention, sparse)
    described = describe(model, offline=offline)
    config, about_attention = with_attention(described.config, attention, sparse)
    sizes = _sizes(described, weights)
    context = config.max_position_embeddings if context is None else context
    if context < 1:
        raise InvalidParameter(f"--context {context} is impossible; it is at least 1")
    notices = about_attention, extended(config, context)[1]
    per_block = block_bytes(config, kv_dtype)
    cache, scratch = blocks_for(context) * per_block, _scratch(config)
    read_per_token = sizes.read_per_token + _cache_read(config, context, kv_dtype)
    available = hardware.memory().available
    fixed = int(sizes.weights) + scratch + _PROGRAM_BYTES
    blocks = max(0, available - fixed) // per_block
    return Plan(
        model=model or "",
        parameters=config.num_parameters(),
        layout=sizes.layout,
        context=context,
        kv_dtype=kv_dtype,
        weights=int(sizes.weights),
        cache=cache,
        scratch=scratch,
        program=_PROGRAM_BYTES,
        total=fixed + cache,
        available=available,
        fits=fixed + cache <= available,
        longest_context=min(trained_context(config), blocks * 64),
        read_bandwidth=bandwidth,
        decode_limit=bandwidth / read_per_token if bandwidth else None,
        decode_limit_empty=bandwidth / sizes.read_per_token if bandwidth else None,
        attention=in_words(config.sparse),
        notes=tuple(notice.text for notice in notices if notice is not None),
    )


def describe(model: str | None, *, offline: bool = False) -> Description:
    """A model that is here, a preset, or a Hub repository (of which only config.json is fetched)."""
    try:
        return read_description(resolve(model))
    except ModelNotFound:
        name = model or ""
        if name in PRESETS:
            return Description(config=PRESETS[name], stored="bfloat16")
        reference = parse_reference(name or DEFAULT_MODEL)
        if reference.kind != "hub" or offline or hardware.flag("WHIMBREL_OFFLINE"):
            raise
    from whimbrel.zoo.hub import fetch_file

    return read_description(fetch_file(reference.repository, "config.json", reference.revision))


def refuse_too_large(path: Path, weights: str | None) -> None:
    """Raises DoesNotFit where the weights alone are larger than the free memory, before any of them is read."""
    if path.is_dir() and weights is not None:
        needed = _sizes(read_description(path), weights).weights
    else:
        files = path.glob("*.safetensors") if path.is_dir() else [path]
        needed = sum(file.stat().st_size for file in files) if weights is None else 0
    available = hardware.memory().available
    if needed > available:
        advice = "--weights q4 makes them smaller" if weights is None and path.is_dir() else "take a smaller model"
        raise DoesNotFit(
            f"the weights of {path.name} need {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free;"
            f" {advice}, and `whimbrel plan` shows what fits"
        )


def read_description(path: Path) -> Description:
    """A local checkpoint folder, config.json or GGUF file; no weight is read."""
    if path.is_dir() or path.name == "config.json":
        data = _read_json(path / "config.json" if path.is_dir() else path)
        stored = str(data.get("dtype") or data.get("torch_dtype") or "float32")
        return Description(config=ModelConfig.from_hf(data), stored=stored)
    from whimbrel.formats.gguf import GGUFFile

    file = GGUFFile(path)
    sizes: dict[str, float] = {}
    by_type: dict[str, float] = {}
    for info in file.tensors.values():
        sizes[info.name] = math.prod(info.shape) * _STORED_BITS.get(info.type.name, 32) / 8
        by_type[info.type.name] = by_type.get(info.type.name, 0) + sizes[info.name]
    config = ModelConfig.from_gguf(file.metadata, file.tensors)
    table = sizes.get(config.family.gguf_model_names["embed_tokens"], 0.0)
    stored = max(by_type, key=lambda name: by_type[name])
    return Description(config=config, stored=stored, weights=sum(sizes.values()), embedding=table)


def _sizes(described: Description, weights: str | None) -> _Sizes:
    """Bytes in memory, and bytes that one decoded token reads: all but the embedding, unless that is the head too."""
    config = described.config
    if weights is not None and weights not in BITS:
        raise InvalidParameter(f"--weights {weights!r} is unknown; there are {', '.join(BITS)}")
    if weights is None and described.weights is not None:
        total, table, layout = described.weights, described.embedding or 0.0, described.stored
    else:
        layout = weights or {"bfloat16": "bf16", "float16": "f16"}.get(described.stored, "f32")
        numbers = config.vocab_size * config.hidden_size
        tables = numbers * (1 if config.tie_word_embeddings else 2)
        # 4 bit means 8 bit for embeddings and head, as models.loading does.
        table_bits = BITS["q8"] if layout == "q4" else BITS[layout]
        total = ((config.num_parameters() - tables) * BITS[layout] + tables * table_bits) / 8
        table = numbers * table_bits / 8
    return _Sizes(weights=total, read_per_token=total - (0 if config.tie_word_embeddings else table), layout=layout)


def _cache_read(config: ModelConfig, context: int, kv_dtype: str) -> int:
    """Bytes of the cache that one token reads at the end of the context."""
    blocks, dense = blocks_for(context), block_bytes(replace(config, sparse=None), kv_dtype)
    if config.sparse is None or context <= first_sparse_position(config.sparse):
        return blocks * dense
    kernels = block_bytes(config, kv_dtype) - dense
    return config.sparse.num_blocks * dense + blocks * kernels


def _scratch(config: ModelConfig) -> int:
    """fp32 activations of one chunk: residual, normed input, q k v, attention output, gate and up; and one row of logits."""
    qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    row = 3 * config.hidden_size + 2 * qkv + 2 * config.intermediate_size
    return 4 * (_PREFILL_CHUNK * row + config.vocab_size)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} can't be read as JSON ({error}); pull the model again") from error
    if not isinstance(data, dict):
        raise FormatError(f"{path} holds {type(data).__name__}, an object was expected")
    return data
