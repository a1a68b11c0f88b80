"""Dense or sparse: what a model is marked for, what somebody asked for, and what to expect where the two differ.

A checkpoint is *marked* by ``sparse_config`` in its config.json (``<arch>.attention.sparse.*`` in a GGUF file). The
published MiniCPM4 files carry no mark, their authors publish it as a block to add; so they run dense too until somebody
adds it or asks, and are then not warned about.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import FormatError, InvalidParameter
from whimbrel.models.config import ModelConfig
from whimbrel.models.notice import Notice

ATTENTIONS = ("auto", "dense", "sparse")
"""What can be asked for: as the checkpoint is marked, every key, or chosen blocks."""

CONSTANTS = tuple(field.name for field in fields(SparseConfig))


def with_attention(
    config: ModelConfig, attention: str = "auto", constants: SparseConfig | Mapping[str, Any] | None = None
) -> tuple[ModelConfig, Notice | None]:
    """The configuration that attends as asked, and what to tell about it.

    ``constants`` (a whole ``SparseConfig``, or some of its fields by name) ask for sparse attention too; those that
    aren't given are the checkpoint's, or else the published ones. Raises ``InvalidParameter`` for unknown or
    impossible values, and for constants of dense attention.
    """
    check_attention(attention, constants)
    if attention == "dense":
        return replace(config, sparse=None), _of_dense(config)
    if attention == "auto" and not constants:
        return config, _of_auto(config)
    sparse = _constants(config.sparse or SparseConfig(), constants)
    return replace(config, sparse=sparse), _of_sparse(config, sparse)


def check_attention(attention: str, constants: SparseConfig | Mapping[str, Any] | None = None) -> None:
    """Raises what ``with_attention`` does for these, as far as that is known without a model."""
    if attention not in ATTENTIONS:
        raise InvalidParameter(f"attention={attention!r} is unknown; there are {', '.join(ATTENTIONS)}")
    if attention == "dense" and constants:
        raise InvalidParameter("attention='dense' takes no sparse constants; leave them out or ask for 'sparse'")
    unknown = [] if isinstance(constants, SparseConfig) else sorted(set(constants or {}) - set(CONSTANTS))
    if unknown:
        raise InvalidParameter(f"sparse: {', '.join(unknown)} is unknown; there are {', '.join(CONSTANTS)}")


def describe(sparse: SparseConfig | None) -> str:
    """One phrase: "dense", or which keys a token sees."""
    if sparse is None:
        return "dense"
    return (
        f"sparse from {_sparse_from(sparse):,} tokens on: {sparse.num_blocks} blocks of {sparse.block_size} tokens,"
        f" the last {sparse.window_size:,} tokens and the first {sparse.init_blocks * sparse.block_size} among them"
        + (f", chosen by {sparse.estimator}" if sparse.estimator != "kernels" else "")
    )


def _constants(base: SparseConfig, given: SparseConfig | Mapping[str, Any] | None) -> SparseConfig:
    if isinstance(given, SparseConfig):
        return given
    try:
        return replace(base, **given or {})
    except FormatError as error:
        raise InvalidParameter(str(error).replace("sparse_config", "sparse", 1)) from error


def _of_auto(config: ModelConfig) -> Notice | None:
    if config.sparse is not None:
        return Notice(f"attention is {describe(config.sparse)}, as the model's configuration says")
    if _is_minicpm4(config):
        return Notice(
            "attention is dense: the configuration has no sparse_config; attention='sparse' adds the published one"
        )
    return None


def _of_dense(config: ModelConfig) -> Notice | None:
    return None if config.sparse is None else Notice("attention is dense as asked; the model is marked for sparse")


def _of_sparse(config: ModelConfig, sparse: SparseConfig) -> Notice:
    found = f"attention is {describe(sparse)}"
    if config.sparse == sparse:
        return Notice(f"{found}, as asked and as the model's configuration says")
    if config.sparse is not None:
        return Notice(f"{found}, as asked; the model's configuration says {describe(config.sparse)}")
    if _is_minicpm4(config):
        return Notice(f"{found}; the configuration has no sparse_config, MiniCPM4 is trained for the published one")
    return Notice(
        f"{found}; this model was not trained for it: in longer texts it will overlook single facts that are far back"
        " (attention='dense' reads everything)",
        warning=True,
    )


def _sparse_from(sparse: SparseConfig) -> int:
    """Tokens from which on the first key is left out."""
    return max(sparse.dense_len, sparse.num_blocks * sparse.block_size + 1)


def _is_minicpm4(config: ModelConfig) -> bool:
    """MiniCPM4 and 4.1 among the models of that type: the earlier ones have plain rotary embeddings."""
    return config.model_type == "minicpm" and config.rope.kind == "longrope"
