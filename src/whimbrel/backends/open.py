"""From a local path to an executor with its tokenizer: files are read, ops bound, the cache laid out."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whimbrel import hardware
from whimbrel.attention.sparse import SparseConfig
from whimbrel.backends.executor import Executor
from whimbrel.backends.native import NativeExecutor
from whimbrel.engine import Engine
from whimbrel.engine.blocks import blocks_for
from whimbrel.engine.limits import block_bytes
from whimbrel.errors import InvalidParameter
from whimbrel.models.attention import check_attention, with_attention
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.config import ModelConfig
from whimbrel.models.context import extended, trained_context
from whimbrel.models.loading import load_model
from whimbrel.models.notice import Notice
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.ops import dispatch
from whimbrel.ops.table import OpTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenModel:
    """An executor and what the text level needs beside it."""

    executor: Executor
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    """None where the model has none: it goes on with text but can't chat"""
    generation_config: Mapping[str, Any]
    """the model's own defaults of sampling, as its authors published them"""
    config: ModelConfig | None = None
    """as it runs: attention and rotary embedding as they were asked for"""
    source: str = ""
    trained_context: int | None = None
    """tokens for which the model was trained, or for which its authors publish frequencies"""


def open_model(
    path: str | Path,
    *,
    context: int | None = None,
    max_sequences: int = 8,
    cache_bytes: int | None = None,
    mapped_blocks: int = 0,
    kv_dtype: str = "bf16",
    prefill_chunk: int = 512,
    prefix_sharing: bool = True,
    step_seconds: float | None = None,
    threads: int | None = None,
    weights: str | None = None,
    ops: str | OpTable = "auto",
    activations: str | None = None,
    attention: str = "auto",
    sparse: SparseConfig | Mapping[str, Any] | None = None,
) -> OpenModel:
    """Load a checkpoint folder or ``.gguf`` file into the engine.

    ``context``: tokens of prompt and answer together (None: what the model was trained for, or as much of it as half
    of the free memory holds); more than it was trained for stretches its rotary embedding, see ``models.context``.
    ``attention``: "auto" (as the checkpoint is marked), "dense" or "sparse"; ``sparse``: constants of the latter, see
    ``models.attention``. What can make answers worse is logged, and in ``capabilities.warnings``.
    ``mapped_blocks``: blocks of a context that documents will bring (``backends.document.settings_for``).
    ``weights``: None as they are stored, or "q4", "q8", "bf16", "f32" converted on loading.
    ``step_seconds``: the time of a step that reads long prompts, so that short ones need not wait (``Engine``).
    ``kv_dtype``: "bf16" or "q8". ``ops``: "native", "reference", "auto", or a table that somebody bound, as it is.
    ``activations``: see ``ops.dispatch``; not with such a table.
    Raises ``ModelNotFound``, ``FormatError``, ``UnsupportedModel``, ``DoesNotFit``, ``InvalidParameter``.
    """
    check_attention(attention, sparse)
    table = _bound(ops, activations)
    model = load_model(Path(path), weights=weights)
    config, about_attention = with_attention(model.config, attention, sparse)
    context = default_context(config, kv_dtype) if context is None else context
    config, about_context = extended(config, context)
    engine = Engine(
        replace(model, config=config),
        ops=table,
        max_context=context,
        max_sequences=max_sequences,
        cache_bytes=cache_bytes,
        mapped_blocks=mapped_blocks,
        kv_dtype=kv_dtype,
        prefill_chunk=prefill_chunk,
        prefix_sharing=prefix_sharing,
        step_seconds=step_seconds,
        threads=hardware.threads() if threads is None else threads,
    )
    return OpenModel(
        executor=NativeExecutor(
            engine, implementation=table.implementations["attend"], warnings=_told(about_attention, about_context)
        ),
        tokenizer=model.tokenizer,
        chat_template=model.chat_template,
        generation_config=model.generation_config,
        config=config,
        source=str(model.source),
        trained_context=trained_context(model.config),
    )


def _bound(ops: str | OpTable, activations: str | None) -> OpTable:
    if isinstance(ops, str):
        return dispatch.bind(ops, activations=activations)
    if activations is not None:
        raise InvalidParameter(f"activations={activations!r} is impossible: the table of ops is bound already")
    return ops


def default_context(config: ModelConfig, kv_dtype: str = "bf16") -> int:
    """The trained context, or what half of the free memory holds of it; a smaller one is logged."""
    trained = config.max_position_embeddings
    fitting = (hardware.memory().available // 2 // block_bytes(config, kv_dtype) - 1) * 64
    if blocks_for(trained) * 64 <= fitting:
        return trained
    context = max(64, fitting)
    log.warning("the context is %d tokens: memory is too small for the model's %d", context, trained)
    return context


def _told(*notices: Notice | None) -> tuple[str, ...]:
    """Log them; the warnings among them."""
    found = [notice for notice in notices if notice is not None]
    for notice in found:
        log.log(logging.WARNING if notice.warning else logging.INFO, "%s", notice.text)
    return tuple(notice.text for notice in found if notice.warning)
