"""Checkpoints as the loader sees them: a GGUF file or a Hugging Face folder behind one set of methods.

A source finds tensors by their field in ``Params``, knows how they are stored, and reads them into packed weights. It
builds the text side too: tokenizer, chat template, generation defaults.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, ModelNotFound, UnsupportedModel
from whimbrel.formats.gguf import GGUFFile
from whimbrel.formats.packed import PackedTensor, pack_rows
from whimbrel.formats.rounding import to_float32
from whimbrel.formats.safetensors import Checkpoint
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.config import ModelConfig
from whimbrel.models.families import Family
from whimbrel.models.rope import RopeConfig
from whimbrel.models.tokenizer import Tokenizer

log = logging.getLogger(__name__)

RowOrder = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class TextSide:
    """Tokenizer, chat template and generation defaults of a checkpoint, without its weights."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    generation_config: Mapping[str, Any]


class Source(Protocol):
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


def open_source(path: Path) -> Source:
    """The source of a folder or a file; raises ``ModelNotFound``, ``FormatError``, ``UnsupportedModel``."""
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise ModelNotFound(f"{path}: there is no such file or folder")
    return GGUFSource(path)


def interleaved_rows(heads: int, head_dim: int) -> RowOrder:
    """Where each row of a rotate-half matrix lies in one whose rotary pairs are neighbours.

    llama.cpp's files store q and k of some families with the pairs ``(i, i + D/2)`` moved next to each other;
    ``stored[interleaved_rows(H, D)]`` is the original, ``[H * D, K]``.
    """
    rows = np.arange(heads * head_dim, dtype=np.intp)
    return rows.reshape(heads, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


class GGUFSource:
    """A GGUF file."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, GGUFFile(path)
        parts = self._file.metadata.get("split.count", 1)
        if parts != 1:
            raise UnsupportedModel(
                f"{path}: one of {parts} parts of a split GGUF file; merge them with llama-gguf-split"
            )
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


def _with_rope_tensors(config: ModelConfig, file: GGUFFile) -> RopeConfig:
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


class FolderSource:
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
        named = [item for item in entry if isinstance(item, dict) and item.get("name") == "default"]
        entry = named[0].get("template") if named else None
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
