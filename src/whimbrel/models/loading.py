"""Loading: a Hugging Face folder or a GGUF file becomes a ``Model``.

Weights stay as they are stored (quantized ones are repacked, not dequantized), or are converted while they are read:
``weights="q4"`` and so on. Each file is read once through a memory map, in chunks, and its pages are given back, so
the weights are in memory once. Every tensor has to be there, in the right shape, and none may be left over.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, InvalidParameter, UnsupportedModel, WhimbrelError
from whimbrel.formats.packed import PackedTensor, empty, empty_interleaved
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.config import ModelConfig
from whimbrel.models.params import LayerParams, Params
from whimbrel.models.sources import RowOrder, Source, TextSide, open_source
from whimbrel.models.tokenizer import Tokenizer

WEIGHTS = ("q4", "q8", "bf16", "f32")
"""Layouts that weights can be converted to. With q4, embeddings and head are q8, as llama.cpp's files have them."""
GROUP = 32
"""Inputs per scale where weights are quantized on load."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network and its text side, ready for an engine."""

    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    generation_config: Mapping[str, Any]
    """the checkpoint's own sampling defaults; empty where it has none"""
    source: Path


def load_model(path: str | Path, *, weights: str | None = None) -> Model:
    """Load a folder with config.json, or a GGUF file.

    ``weights``: None keeps every tensor as stored; q4, q8, bf16 or f32 converts the matrices. Raises ``ModelNotFound``,
    ``FormatError`` (damaged, missing or misshapen parts), ``UnsupportedModel``, ``InvalidParameter``.
    """
    if weights is not None and weights not in WEIGHTS:
        raise InvalidParameter(f"weights {weights!r} is not possible; choose one of {', '.join(WEIGHTS)}")
    with naming(path):
        return _load(Path(path), weights)


def _load(path: Path, weights: str | None) -> Model:
    source = open_source(path)
    # The tokenizer takes 0.15 s for a vocabulary of 50,000 and repacking mostly runs outside of the interpreter lock.
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(source.text_side)
        params = _Loader(source, weights).params()
        text = pending.result()
    config = _with_end_tokens(source.config, text)
    return Model(
        config=config,
        params=params,
        tokenizer=text.tokenizer,
        chat_template=text.chat_template,
        generation_config=text.generation_config,
        source=path,
    )


def load_config(path: str | Path) -> ModelConfig:
    """The configuration alone; reads no weights. Raises like ``load_model``."""
    with naming(path):
        return open_source(Path(path)).config


def load_text_side(path: str | Path) -> TextSide:
    """Tokenizer, chat template and generation defaults alone; reads no weights. Raises like ``load_model``."""
    with naming(path):
        return open_source(Path(path)).text_side()


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the checkpoint's path before errors that don't name it yet."""
    try:
        yield
    except WhimbrelError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from None


def _with_end_tokens(config: ModelConfig, text: TextSide) -> ModelConfig:
    """Check ids against the vocabulary, and collect every token that ends an answer."""
    if text.tokenizer.vocab_size > config.vocab_size:
        raise FormatError(
            f"the tokenizer has {text.tokenizer.vocab_size} tokens, the model only {config.vocab_size}; "
            "they belong to different checkpoints"
        )
    more = text.generation_config.get("eos_token_id") or []
    more = more if isinstance(more, list) else [more]
    ids = [*config.eos_token_ids, *more, *text.tokenizer.eos_token_ids]
    bad = [id for id in ids if not isinstance(id, int) or not 0 <= id < config.vocab_size]
    if bad:
        raise FormatError(f"end token {bad[0]!r} is outside of the vocabulary of {config.vocab_size}")
    return replace(config, eos_token_ids=tuple(dict.fromkeys(ids)))


class _Loader:
    """Builds ``Params`` from a source; remembers which tensors it has used."""

    def __init__(self, source: Source, weights: str | None) -> None:
        self._source, self._weights = source, weights
        self._shapes = source.shapes()
        self._used: set[str] = set()

    def params(self) -> Params:
        config = self._source.config
        vocabulary = (config.vocab_size, config.hidden_size)
        embed = self._matrix("embed_tokens", None, vocabulary)
        head = embed if config.tie_word_embeddings else self._matrix("lm_head", None, vocabulary)
        layers = tuple(self._layer(index) for index in range(config.num_hidden_layers))
        norm = self._vector("norm", None, config.hidden_size)
        self._check_leftovers()
        return Params(embed_tokens=embed, layers=layers, norm=norm, lm_head=head)

    def _layer(self, index: int) -> LayerParams:
        config = self._source.config
        hidden, d = config.hidden_size, config.head_dim
        heads, kv = config.num_attention_heads * d, config.num_key_value_heads * d
        gate, up = self._gate_and_up(index, (config.intermediate_size, hidden))
        return LayerParams(
            input_layernorm=self._vector("input_layernorm", index, hidden),
            q_proj=self._matrix("q_proj", index, (heads, hidden)),
            k_proj=self._matrix("k_proj", index, (kv, hidden)),
            v_proj=self._matrix("v_proj", index, (kv, hidden)),
            qkv_bias=self._bias(index, (heads, kv, kv)) if config.attention_bias else None,
            q_norm=self._vector("q_norm", index, d) if config.qk_norm else None,
            k_norm=self._vector("k_norm", index, d) if config.qk_norm else None,
            o_proj=self._matrix("o_proj", index, (hidden, heads)),
            post_attention_layernorm=self._vector("post_attention_layernorm", index, hidden),
            gate_proj=gate,
            up_proj=up,
            down_proj=self._matrix("down_proj", index, (hidden, config.intermediate_size)),
        )

    def _find(self, field: str, layer: int | None, shape: tuple[int, ...]) -> str:
        name = self._source.name(field, layer)
        if name not in self._shapes:
            raise FormatError(f"tensor {name!r} is missing; the checkpoint is incomplete or of another architecture")
        if self._shapes[name] != shape:
            raise FormatError(
                f"tensor {name!r} has shape {self._shapes[name]}, the configuration asks for {shape}; "
                "they belong to different checkpoints"
            )
        self._used.add(name)
        return name

    def _vector(self, field: str, layer: int | None, size: int) -> npt.NDArray[np.float32]:
        return self._source.vector(self._find(field, layer, (size,)))

    def _bias(self, layer: int, sizes: tuple[int, int, int]) -> npt.NDArray[np.float32]:
        parts = []
        for field, size in zip(("q", "k", "v"), sizes, strict=True):
            bias = self._vector(f"{field}_bias", layer, size)
            order = self._source.row_order(f"{field}_proj")
            parts.append(bias if order is None else bias[order])
        return np.concatenate(parts)

    def _matrix(self, field: str, layer: int | None, shape: tuple[int, int]) -> PackedTensor:
        name = self._find(field, layer, shape)
        layout, group, mins = self._layout(field, name)
        out = empty(layout, shape, group, mins=mins)
        self._fill(name, out, self._source.row_order(field))
        return out

    def _gate_and_up(self, layer: int, shape: tuple[int, int]) -> tuple[PackedTensor, PackedTensor]:
        names = [self._find(field, layer, shape) for field in ("gate_proj", "up_proj")]
        kinds = [self._layout("gate_proj", name) for name in names]
        if kinds[0] == kinds[1]:
            layout, group, mins = kinds[0]
            pair = empty_interleaved(layout, shape, group, mins=mins)
        else:
            first, second = (empty(layout, shape, group, mins=mins) for layout, group, mins in kinds)
            pair = (first, second)
        for name, out in zip(names, pair, strict=True):
            self._fill(name, out, None)
        return pair

    def _fill(self, name: str, out: PackedTensor, order: RowOrder | None) -> None:
        try:
            self._source.fill(name, out, order)
        except FormatError as error:
            raise FormatError(f"tensor {name!r}: {error}") from None

    def _layout(self, field: str, name: str) -> tuple[str, int, bool]:
        """The stored layout where it is the wanted one; quantized anew, in groups of 32 without mins, where not."""
        stored = self._source.stored(name)
        wanted = self._weights or stored[0]
        if wanted == "q4" and field in ("embed_tokens", "lm_head"):
            wanted = "q8"
        if wanted == stored[0]:
            return stored
        return wanted, GROUP if wanted in ("q4", "q8") else 0, False

    def _check_leftovers(self) -> None:
        left = sorted(set(self._shapes) - self._used)
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise UnsupportedModel(
                f"tensor {left[0]!r}{more} is no part of a {self._source.config.model_type} network as this build knows it"
            )
