"""Random checkpoints in the published layout: config.json, sharded safetensors in bf16, generation_config.json, and a
tokenizer, so that the folder loads and runs here and in transformers.

The text means nothing, but shapes, names, memory and speed are those of the real model. The tokenizer is synthetic:
one token per byte, then unused names up to the model's vocabulary, with the real ids of the control tokens.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import DoesNotFit, UsageError
from whimbrel.formats.rounding import to_bf16
from whimbrel.formats.safetensors import TensorSource, write_checkpoint
from whimbrel.models.config import ModelConfig
from whimbrel.models.families.family import CHATML

INITIALIZER_RANGE = 0.1
"""Standard deviation of the matrices, as MiniCPM4's config.json has it."""
CHUNK = 1 << 20
CONTROL_TOKENS = (
    "<|im_end|>",
    "<|im_start|>",
    "<|tool_call|>",
    "<|execute_start|>",
    "<|execute_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
)
"""The last ids of MiniCPM4's vocabulary, in order."""

Progress = Callable[[int, int], None]
"""Called with the bytes written so far and in all."""


def init_checkpoint(
    config: ModelConfig, folder: str | Path, *, seed: int = 0, progress: Progress | None = None
) -> Path:
    """Write a checkpoint with random weights; the same seed gives the same bytes. Returns the folder.

    Raises ``UsageError`` when the folder holds anything already, ``DoesNotFit`` when the disk is too small. After an
    error or Ctrl-C nothing of it stays.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: exists and is not empty; choose a new folder or remove it first")
    existed = target.exists()
    target.mkdir(parents=True, exist_ok=True)
    try:
        _check_disk(target, 2 * config.num_parameters())
        write_checkpoint(target, _tensors(config, seed, progress or (lambda done, total: None)))
        _write_tokenizer(target, config)
        _write_json(target / "generation_config.json", _generation(config))
        # Last, because a folder without it does not load.
        _write_json(target / "config.json", config.to_hf() | {"initializer_range": INITIALIZER_RANGE})
    except BaseException:
        for path in target.iterdir():
            path.unlink()
        if not existed:
            target.rmdir()
        raise
    return target


def hf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a Hugging Face checkpoint, in its usual order."""
    family, hidden, d = config.family, config.hidden_size, config.head_dim
    heads, kv = config.num_attention_heads * d, config.num_key_value_heads * d
    layer: dict[str, tuple[int, ...]] = {
        "q_proj": (heads, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, heads),
        "gate_proj": (config.intermediate_size, hidden), "up_proj": (config.intermediate_size, hidden),
        "down_proj": (hidden, config.intermediate_size),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    if config.attention_bias:
        layer |= {"q_bias": (heads,), "k_bias": (kv,), "v_bias": (kv,)}
    if config.qk_norm:
        layer |= {"q_norm": (d,), "k_norm": (d,)}
    shapes: dict[str, tuple[int, ...]] = {family.hf_model_names["embed_tokens"]: (config.vocab_size, hidden)}
    for index in range(config.num_hidden_layers):
        shapes |= {family.hf_layer_names[field].format(index): shape for field, shape in layer.items()}
    shapes[family.hf_model_names["norm"]] = (hidden,)
    if not config.tie_word_embeddings:
        shapes[family.hf_model_names["lm_head"]] = (config.vocab_size, hidden)
    return shapes


def _tensors(config: ModelConfig, seed: int, progress: Progress) -> Iterator[TensorSource]:
    total, done = 2 * config.num_parameters(), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for index, (name, shape) in enumerate(hf_shapes(config).items()):
        yield TensorSource(name=name, dtype="BF16", shape=shape, chunks=_chunks(name, shape, (seed, index), advance))


def _chunks(
    name: str, shape: tuple[int, ...], seed: tuple[int, int], advance: Callable[[int], None]
) -> Callable[[], Iterator[npt.NDArray[np.uint16]]]:
    """Norms are 1, biases 0, matrices normal with ``INITIALIZER_RANGE``; a million at a time."""

    def produce() -> Iterator[npt.NDArray[np.uint16]]:
        rng = np.random.default_rng(seed)
        left = int(np.prod(shape))
        while left:
            count = min(left, CHUNK)
            if name.endswith("norm.weight"):
                values = np.ones(count, np.float32)
            elif name.endswith("bias"):
                values = np.zeros(count, np.float32)
            else:
                values = rng.standard_normal(count, np.float32) * np.float32(INITIALIZER_RANGE)
            yield to_bf16(values)
            left -= count
            advance(2 * count)

    return produce


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DoesNotFit(f"{folder}: the checkpoint needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free")


def _generation(config: ModelConfig) -> dict[str, Any]:
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids),
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.8,
    }


def _write_tokenizer(folder: Path, config: ModelConfig) -> None:
    """tokenizer.json and tokenizer_config.json: ``<unk> <s> </s>``, 256 bytes, fillers, control tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    first, last = ("<unk>", "<s>", "</s>"), CONTROL_TOKENS
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ("th",) if config.vocab_size > len(first) + len(last) + len(alphabet) else ()  # no GGUF without a merge
    filler = config.vocab_size - len(first) - len(last) - len(alphabet) - len(merged)
    if filler < 0:
        raise UsageError(f"a vocabulary of {config.vocab_size} is too small for bytes and control tokens")
    names = [*first, *alphabet, *merged, *(f"<unused_{i}>" for i in range(filler)), *last]
    tokenizer = Tokenizer(
        models.BPE(vocab={name: id for id, name in enumerate(names)}, merges=[("t", "h")] * len(merged))
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*first, *last)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "model_max_length": config.max_position_embeddings,
        "chat_template": CHATML,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
