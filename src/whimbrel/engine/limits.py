"""What an engine refuses: requests that can't be right, and caches that don't fit. Each says what would."""

import logging
import math

from whimbrel import hardware
from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.engine.blocks import blocks_for
from whimbrel.engine.request import Request
from whimbrel.engine.store import KERNELS, bytes_per_block
from whimbrel.errors import DoesNotFit, InvalidParameter, PromptTooLong, UnsupportedModel
from whimbrel.models.config import ModelConfig

log = logging.getLogger(__name__)

KERNEL_STRIDE = BLOCK_SIZE // KERNELS
KERNEL_SIZE = 2 * KERNEL_STRIDE


def at_least_one(name: str, value: object) -> None:
    """Raises ``InvalidParameter`` for anything but a positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidParameter(f"{name}={value!r} is impossible; it is a whole number from 1 on")


def check_step_seconds(value: object) -> None:
    """Raises ``InvalidParameter`` for anything but None and a positive number."""
    good = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf)
    if not good:
        raise InvalidParameter(f"step_seconds={value!r} is impossible; it is a number of seconds above 0, or None")


def warn_beyond_training(config: ModelConfig, max_context: int) -> None:
    """Log that positions beyond the model's own were asked for: it runs, but was never trained on them."""
    if max_context > config.max_position_embeddings:
        log.warning(
            "a context of %d tokens is beyond the %d of the model's config", max_context, config.max_position_embeddings
        )


def check_sparse(config: ModelConfig, *, native: bool = True) -> None:
    """Raises ``UnsupportedModel`` for semantic kernels that the cache's blocks have no places for, or other estimators."""
    if config.sparse is None:
        return
    if native and config.sparse.estimator != "kernels":
        raise UnsupportedModel(
            f"sparse attention by {config.sparse.estimator} is not there in the native ops, which choose blocks by"
            " semantic kernels: leave the estimator out, or open the model with ops='reference'"
        )
    sizes = config.sparse.kernel_size, config.sparse.kernel_stride, config.sparse.block_size
    if sizes != (KERNEL_SIZE, KERNEL_STRIDE, BLOCK_SIZE):
        raise UnsupportedModel(
            f"sparse attention with kernels of {sizes[0]} tokens, {sizes[1]} apart, in blocks of {sizes[2]} is not"
            f" supported: the cache keeps kernels of {KERNEL_SIZE}, {KERNEL_STRIDE} apart, in blocks of {BLOCK_SIZE}"
        )


def block_bytes(config: ModelConfig, kv_dtype: str) -> int:
    """Bytes of one block of the cache. Raises ``InvalidParameter`` for an unknown ``kv_dtype``."""
    return bytes_per_block(
        config.num_hidden_layers,
        config.num_key_value_heads,
        config.head_dim,
        kv_dtype,
        kernels=config.sparse is not None,
    )


def count_blocks(
    config: ModelConfig,
    max_context: int,
    kv_dtype: str,
    num_blocks: int | None,
    cache_bytes: int | None,
    mapped_blocks: int = 0,
) -> int:
    """Blocks of the cache: as many as were asked for, or one context and a spare block.

    ``mapped_blocks`` of a context are not the cache's: documents on disk bring them.

    Raises ``DoesNotFit`` if that is less than one context or more than the free memory, ``InvalidParameter`` if both
    sizes are given.
    """
    size, needed = block_bytes(config, kv_dtype), max(1, blocks_for(max_context) - mapped_blocks)
    if num_blocks is not None and cache_bytes is not None:
        raise InvalidParameter("num_blocks and cache_bytes both give the cache's size; give one of them")
    if cache_bytes is not None:
        num_blocks = cache_bytes // size
    if num_blocks is None:
        num_blocks = needed + 1
    if num_blocks < needed:
        raise DoesNotFit(
            f"a context of {max_context} tokens needs {_mib(needed * size)} of cache and {_mib(num_blocks * size)} were "
            f"given; lower the context to {num_blocks * BLOCK_SIZE} or give the cache more"
        )
    available = hardware.memory().available
    if num_blocks * size > available:
        raise DoesNotFit(
            f"a cache for {num_blocks * BLOCK_SIZE} tokens needs {_mib(num_blocks * size)} and {_mib(available)} are "
            f"free; lower the context (about {available // size * BLOCK_SIZE} fit) or use kv_dtype='q8'"
        )
    return num_blocks


def check_request(request: Request, config: ModelConfig, max_context: int) -> None:
    """Raises ``PromptTooLong`` or ``InvalidParameter``."""
    _check_length(len(request.token_ids), request.params.max_tokens, max_context)
    for token_id in (min(request.token_ids), max(request.token_ids)):
        if not 0 <= token_id < config.vocab_size:
            raise InvalidParameter(f"token id {token_id} is outside the vocabulary of {config.vocab_size}")
    for token_id in (*request.params.logit_bias, *request.params.stop_token_ids):
        if token_id >= config.vocab_size:
            raise InvalidParameter(
                f"token id {token_id} in logit_bias or stop_token_ids is outside the vocabulary of {config.vocab_size}"
            )


def check_room(length: int, answer: int | None, own_blocks: int, pinned: int) -> int:
    """The most tokens that a sequence can have whose first ``pinned`` blocks lie outside of the cache.

    Raises ``PromptTooLong`` if that is too few.
    """
    room = (own_blocks + pinned) * BLOCK_SIZE
    if length + (1 if answer is None else answer) > room:
        raise PromptTooLong(
            f"the prompt has {length} tokens, {pinned * BLOCK_SIZE} of them in an open document; the cache holds "
            f"{own_blocks * BLOCK_SIZE} more with the answer: ask for less, or load the model with a larger cache"
        )
    return room


def _check_length(length: int, answer: int | None, max_context: int) -> None:
    if length > max_context:
        raise PromptTooLong(
            f"the prompt has {length} tokens and the context holds {max_context}; "
            "shorten the prompt or load the model with a larger context"
        )
    if answer is None and length == max_context:
        raise PromptTooLong(
            f"the prompt has {length} tokens and fills the context of {max_context}: no room for an answer; "
            "shorten the prompt or load the model with a larger context"
        )
    if answer is not None and length + answer > max_context:
        raise PromptTooLong(
            f"the prompt has {length} tokens and max_tokens={answer}, together {length + answer}; the context holds "
            f"{max_context}: lower max_tokens to {max_context - length} or enlarge the context"
        )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
