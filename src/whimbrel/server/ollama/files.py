"""What a model's files say of it, for Ollama's descriptions. Blocking: for routes that run in a thread."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from whimbrel.errors import WhimbrelError
from whimbrel.models.config import ModelConfig
from whimbrel.models.loading import load_text_side
from whimbrel.zoo.plan import read_description
from whimbrel.zoo.store import Record, Store, resolve


@dataclass(frozen=True, slots=True)
class Files:
    """A model on the disk."""

    path: Path
    config: ModelConfig
    stored: str
    """how most of its weights are stored"""
    bytes: int
    modified: datetime
    record: Record | None
    """how it came here; None for one that was named by its path"""

    @property
    def details(self) -> dict[str, Any]:
        """Ollama's summary."""
        return {
            "parent_model": "",
            "format": "safetensors" if self.path.is_dir() else "gguf",
            "family": self.config.model_type,
            "families": [self.config.model_type],
            "parameter_size": _count(self.config.num_parameters()),
            "quantization_level": self.stored.upper(),
        }

    @property
    def info(self) -> dict[str, Any]:
        """The configuration under the keys of GGUF metadata."""
        config, name = self.config, self.config.family.gguf_arch
        values: dict[str, Any] = {
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": config.head_dim,
            "rope.freq_base": config.rope.theta,
            "vocab_size": config.vocab_size,
        }
        if config.sparse is not None:
            values |= {f"sparse.{key}": value for key, value in asdict(config.sparse).items()}
        general = {"general.architecture": name, "general.parameter_count": config.num_parameters()}
        return {**general, **{f"{name}.{key}": value for key, value in values.items()}}

    @property
    def text_side(self) -> tuple[str, Mapping[str, Any]]:
        """The chat template ("" where there is none), and the model's own defaults of sampling."""
        return _text_side(self.path, self.modified)


def files_of(name: str) -> Files | None:
    """Of a model by its name in this server; None where there are none that can be read."""
    try:
        path = resolve(name)
        stats = [file.stat() for file in ([path] if path.is_file() else path.glob("*.safetensors"))]
        modified = datetime.fromtimestamp(max(stat.st_mtime for stat in stats), UTC)
        config, stored = _described(path, modified)
        return Files(path, config, stored, sum(stat.st_size for stat in stats), modified, Store().get(name))
    except (WhimbrelError, OSError, ValueError):
        return None


@lru_cache(maxsize=64)
def _text_side(path: Path, modified: datetime) -> tuple[str, Mapping[str, Any]]:
    side = load_text_side(path)
    return side.chat_template.source if side.chat_template else "", side.generation_config


@lru_cache(maxsize=64)
def _described(path: Path, modified: datetime) -> tuple[ModelConfig, str]:
    described = read_description(path)
    return described.config, described.stored


def _count(parameters: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters >= size:
            return f"{parameters / size:.1f}{unit}"
    return str(parameters)
