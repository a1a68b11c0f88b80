"""Checkpoints of training become models: the Hub's layout, from which ``models.exporting`` makes GGUF; and back."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.formats.rounding import to_bf16
from whimbrel.formats.safetensors import TensorSource, write_checkpoint
from whimbrel.models.config import ModelConfig
from whimbrel.models.loading import load_model
from whimbrel.train.parameters import Parameters, from_decoder

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "generation_config.json",
)  # fmt: skip
DTYPES = {"f32": "F32", "bf16": "BF16"}


def export_hub(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    folder: str | Path,
    *,
    tokenizer: str | Path | None = None,
    dtype: str = "bf16",
) -> Path:
    """Write config.json, model.safetensors, and the tokenizer files of a folder that has them.

    Raises UsageError where the folder holds a model already, or the tokenizer's has no tokenizer; InvalidParameter.
    """
    target = Path(folder)
    if dtype not in DTYPES:
        raise InvalidParameter(f"dtype {dtype!r} is not possible; choose {' or '.join(DTYPES)}")
    if (target / "config.json").exists():
        raise UsageError(f"{target}: holds a model already; choose a new folder or remove it first")
    files = [] if tokenizer is None else [Path(tokenizer) / name for name in TOKENIZER_FILES]
    if tokenizer is not None and not any(file.name.startswith("tokenizer.") and file.exists() for file in files):
        raise UsageError(f"{tokenizer}: has neither tokenizer.json nor tokenizer.model")
    write_checkpoint(target, [_source(name, tensor, DTYPES[dtype]) for name, tensor in tensors.items()])
    for file in files:
        if file.exists():
            shutil.copyfile(file, target / file.name)
    data = config.to_hf() | {"torch_dtype": "bfloat16" if dtype == "bf16" else "float32"}
    # Last, because a folder without it does not load.
    (target / "config.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return target


def import_model(path: str | Path) -> tuple[ModelConfig, Parameters]:
    """A Hugging Face folder or GGUF file as trainable fp32 parameters; raises like ``models.loading.load_model``."""
    model = load_model(path)
    return model.config, from_decoder(model.config, model.params)


def _source(name: str, tensor: Tensor, dtype: str) -> TensorSource:
    values = np.ascontiguousarray(tensor.detach().cpu().float().numpy())
    chunks: Callable[[], Iterable[np.ndarray[Any, Any]]] = lambda: [to_bf16(values) if dtype == "BF16" else values]
    return TensorSource(name=name, dtype=dtype, shape=tuple(values.shape), chunks=chunks)
