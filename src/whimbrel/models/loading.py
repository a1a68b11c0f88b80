"""Loading: a Hugging Face folder or a GGUF file becomes a ``Model``.

Weights stay as they are stored (quantized ones are repacked, not dequantized), or are converted while they are read:
``weights="q4"`` and so on. Each file is read once through a memory map, in chunks, and its pages are given back, so
the weights are in memory once. Every tensor has to be there, in the right shape, and none may be left over.
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, InvalidParameter, ModelNotFound, UnsupportedModel
from whimbrel.formats.gguf import GGUFFile
from whimbrel.formats.packed import PackedTensor, empty, empty_interleaved, pack_rows
from whimbrel.formats.rounding import to_float32
from whimbrel.formats.safetensors import Checkpoint
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.config import ModelConfig
from whimbrel.models.families import Family
from whimbrel.models.params import LayerParams, Params
from whimbrel.models.tokenizer import Tokenizer

log = logging.getLogger(__name__)

WEIGHTS = ("q4", "q8", "bf16", "f32")
"""Layouts that weights can be converted to. With q4, embeddings and head are q8, as llama.cpp's files have them."""
GROUP = 32
"""Inputs per scale where weights are quantized on load."""

RowOrder = npt.NDArray[np.intp]


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


@dataclass(frozen=True, kw_only=True)
class TextSide:
    """Tokenizer, chat template and generation defaults of a checkpoint, without its weights."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    generation_config: Mapping[str, Any]


def load_model(path: str | Path, *, weights: str | None = None) -> Model:
    """Load a folder with config.json, or a GGUF file.

    ``weights``: None keeps every tensor as stored; q4, q8, bf16 or f32 converts the matrices. Raises ``ModelNotFound``,
    ``FormatError`` (damaged, missing or misshapen parts), ``UnsupportedModel``, ``InvalidParameter``.
    """
    if weights is not None and weights not in WEIGHTS:
        raise InvalidParameter(f"weights {weights!r} is not possible; choose one of {', '.join(WEIGHTS)}")
    source = _open(Path(path))
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
        source=Path(path),
    )


def load_config(path: str | Path) -> ModelConfig:
    """The configuration alone; reads no weights. Raises like ``load_model``."""
    return _open(Path(path)).config


def load_text_side(path: str | Path) -> TextSide:
    """Tokenizer, chat template and generation defaults alone; reads no weights. Raises like ``load_model``."""
    return _open(Path(path)).text_side()


def interleaved_rows(heads: int, head_dim: int) -> RowOrder:
    """Where each row of a rotate-half matrix lies in one whose rotary pairs are neighbours.

    llama.cpp's files store q and k of some families with the pairs ``(i, i + D/2)`` moved next to each other;
    ``stored[interleaved_rows(H, D)]`` is the original, ``[H * D, K]``.
    """
    rows = np.arange(heads * head_dim, dtype=np.intp)
    return rows.reshape(heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


def _open(path: Path) -> "_Source":
    if path.is_dir():
        return _Folder(path)
    if not path.exists():
        raise ModelNotFound(f"{path}: there is no such file or folder")
    return _GGUF(path)


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


class _Source(Protocol):
    """A checkpoint as the loader sees it. Tensors go by their field in ``Params`` and the layer's index, if any."""

    config: ModelConfig

    def name(self, field: str, layer: int | None) -> str:
        """What the file calls a tensor."""
        ...

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name and shape of every tensor that belongs to the network."""
        ...

    def stored(self, name: str) -> tuple[str, int, bool]:
        """Layout, group and mins that fit the tensor as it is stored."""
        ...

    def row_order(self, field: str) -> RowOrder | None:
        """The order in which the rows of q_proj and k_proj have to be read, or None."""
        ...

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        """A norm or a bias."""
        ...

    def fill(self, name: str, out: PackedTensor, order: RowOrder | None) -> None:
        """Read a matrix into ``out``."""
        ...

    def text_side(self) -> TextSide:
        """Tokenizer, chat template, generation defaults."""
        ...


class _Loader:
    """Builds ``Params`` from a source; remembers which tensors it has used."""

    def __init__(self, source: _Source, weights: str | None) -> None:
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


class _GGUF:
    """A GGUF file."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, GGUFFile(path)
        config = ModelConfig.from_gguf(self._file.metadata, self._file.tensors)
        self.config = replace(config, rope=_with_rope_tensors(config, self._file))

    def name(self, field: str, layer: int | None) -> str:
        family = self.config.family
        return family.gguf_model_names[field] if layer is None else family.gguf_layer_names[field].format(layer)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self._file.tensors.items() if name not in _ROPE_TENSORS}

    def stored(self, name: str) -> tuple[str, int, bool]:
        kind = self._file.tensors[name].type
        if not kind.layout:
            raise UnsupportedModel(f"tensor {name!r} is stored as {kind.name}, which is not supported")
        return kind.layout, kind.group, kind.mins

    def row_order(self, field: str) -> RowOrder | None:
        config = self.config
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(field)
        return interleaved_rows(heads, config.head_dim) if heads and config.family.gguf_permuted else None

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        return np.array(self._file.dequantize(name), np.float32)

    def fill(self, name: str, out: PackedTensor, order: RowOrder | None) -> None:
        if (out.layout, out.group, out.mins is not None) == self.stored(name):
            self._file.repack(name, row_order=order, out=out)
            return
        pack_rows(lambda start, stop: self._file.dequantize_rows(name, start, stop, order), out)
        self._file.drop_pages(name)

    def text_side(self) -> TextSide:
        metadata = self._file.metadata
        tokenizer = Tokenizer.from_gguf(metadata)
        tokens: dict[str, str] = {}
        for key in ("bos", "eos", "unknown", "padding"):
            id = metadata.get(f"tokenizer.ggml.{key}_token_id")
            text = tokenizer.token_name(id) if isinstance(id, int) else None
            if text is not None:
                tokens[{"unknown": "unk", "padding": "pad"}.get(key, key) + "_token"] = text
        template = _template(metadata.get("tokenizer.chat_template"), tokens, self.config.family, self._path)
        return TextSide(tokenizer=tokenizer, chat_template=template, generation_config={})


_ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def _with_rope_tensors(config: ModelConfig, file: GGUFFile) -> Any:
    """Frequency factors that the file has as tensors. ``rope_freqs`` (Llama 3) serves every length, without m."""
    rope = config.rope
    for name in _ROPE_TENSORS:
        if name in file.tensors and file.tensors[name].shape != (config.head_dim // 2,):
            raise FormatError(f"tensor {name!r} has shape {file.tensors[name].shape}, not ({config.head_dim // 2},)")
    freqs, long, short = (
        tuple(float(f) for f in file.dequantize(name)) if name in file.tensors else () for name in _ROPE_TENSORS
    )
    if long and short and rope.kind == "longrope":
        return replace(rope, long_factor=long, short_factor=short)
    if freqs:
        return replace(rope, kind="longrope", long_factor=freqs, short_factor=freqs, attention_factor=1.0)
    return rope


class _Folder:
    """A folder as the Hugging Face hub has them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"{path}: no config.json and no GGUF file of that name; is it a checkpoint?")
        self.config = ModelConfig.from_hf(_read_json(path / "config.json"))
        self._opened: Checkpoint | None = None

    @property
    def _checkpoint(self) -> Checkpoint:
        if self._opened is None:
            self._opened = Checkpoint(self._path)
        return self._opened

    def name(self, field: str, layer: int | None) -> str:
        family = self.config.family
        return family.hf_model_names[field] if layer is None else family.hf_layer_names[field].format(layer)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        # Tied checkpoints may repeat the head; old ones stored the rotary frequencies.
        repeated = self.name("lm_head", None) if self.config.tie_word_embeddings else None
        return {
            name: entry.shape
            for name, entry in self._checkpoint.tensors.items()
            if name != repeated and not name.endswith("rotary_emb.inv_freq")
        }

    def stored(self, name: str) -> tuple[str, int, bool]:
        dtype = self._checkpoint.tensors[name].dtype
        if dtype not in ("F32", "F16", "BF16"):
            raise UnsupportedModel(f"tensor {name!r} is stored as {dtype}, which is not supported")
        return dtype.lower(), 0, False

    def row_order(self, field: str) -> RowOrder | None:
        return None

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        self.stored(name)
        return np.array(to_float32(self._checkpoint.array(name)), np.float32)

    def fill(self, name: str, out: PackedTensor, order: RowOrder | None) -> None:
        array = self._checkpoint.array(name)
        pack_rows(lambda start, stop: array[start:stop], out)
        self._checkpoint.drop_pages(name)

    def text_side(self) -> TextSide:
        settings = _read_json(self._path / "tokenizer_config.json", required=False)
        tokens = {}
        for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
            value = settings.get(key)
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                tokens[key] = text
        tokenizer = Tokenizer.from_folder(self._path)
        template = _template(_folder_template(self._path, settings), tokens, self.config.family, self._path)
        generation = _read_json(self._path / "generation_config.json", required=False)
        return TextSide(tokenizer=tokenizer, chat_template=template, generation_config=generation)


def _folder_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """chat_template.jinja, or the entry of tokenizer_config.json (a string, or a list with one named default)."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    entry = settings.get("chat_template")
    if isinstance(entry, list):
        named = {item["name"]: item["template"] for item in entry if isinstance(item, dict)}
        entry = named.get("default")
    return entry if isinstance(entry, str) else None


def _template(source: Any, tokens: Mapping[str, str], family: Family, path: Path) -> ChatTemplate | None:
    if isinstance(source, str):
        return ChatTemplate(source, tokens)
    if family.chat_template is None:
        return None
    log.warning("%s: has no chat template; using the one of the %s family", path, family.model_type)
    return ChatTemplate(family.chat_template, tokens)


def _read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise ModelNotFound(f"{path}: there is no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: can't be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise FormatError(f"{path}: an object was expected, found a {type(data).__name__}")
    return data
