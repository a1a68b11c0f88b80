"""``infllm_v2``: sparse attention for models of ``transformers``.

    import whimbrel.train.transformers_attention  # registers the name

    model = AutoModelForCausalLM.from_pretrained("...", attn_implementation="infllm_v2")

Works for decoders whose attention goes through transformers' attention interface (Llama, Qwen, Mistral and most others):
prefill, training, gradient checkpointing, padded batches, ``generate`` with the library's own caches. The constants are
``config.sparse_config``, a dictionary as MiniCPM4 has it, or the published ones with a warning: a model that was not
trained for sparse attention loses quality beyond ``dense_len`` tokens, and nothing here can tell.

No state is kept between calls: semantic kernels are averaged again from the cached keys at every step. So a decoding step
reads all keys once more (dense attention reads keys and values of all tokens), but nothing goes stale when a cache is
cropped, reordered or continued. Whimbrel's own engine keeps the kernels with the cache.

What the interface can ask for and this can't do raises ``UnsupportedCapability``: dropout, soft caps, attention sinks,
sliding windows shorter than the text, packed sequences, masks that are not causal, attention weights as output.
Needs ``transformers`` 5. Source: InfLLM-V2 (2025).
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import MissingExtra, UnsupportedCapability
from whimbrel.train.sparse_attention import sparse_attention

try:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import causal_mask_function
except ImportError as error:
    raise MissingExtra(f"infllm_v2 needs transformers 5: pip install 'transformers>=5' ({error})") from error

NAME = "infllm_v2"

REFUSED = ("cache", "head_mask", "output_attentions", "position_bias", "s_aux", "softcap")
"""Options of the interface that change the result, and that sparse attention doesn't have."""


def register() -> None:
    """Make ``attn_implementation="infllm_v2"`` known to transformers; importing this module does it."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, spans)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function: query [B, H, T, D], key and value [B, G, L, D], to ([B, T, H, D], None).

    ``attention_mask`` is what ``spans`` gave.
    """
    _refuse(module, key, value, dropout, options)
    starts = None
    if attention_mask is not None:
        if attention_mask.dtype != torch.int64 or attention_mask.shape[1:] != (1, 1, 2):
            raise UnsupportedCapability(
                f"{NAME} was given a mask of shape {list(attention_mask.shape)} and {attention_mask.dtype}; it takes "
                "the padding mask of the model's forward pass, [batch, tokens], or none"
            )
        starts, end = attention_mask[:, 0, 0, 0], int(attention_mask[0, 0, 0, 1])
        key, value = key[:, :, :end], value[:, :, :end]
    out = sparse_attention(query, key, value, sparse=constants(module.config), scale=scaling, starts=starts)
    return out.transpose(1, 2).contiguous(), None


def spans(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    **_: Any,
) -> Tensor | None:
    """The mask function: int64 [B, 1, 1, 2], each sequence's first key and the end of all of them; None: 0 and all.

    The four axes tell the library that nothing is to be made of it. A static cache is longer than what it holds; keys
    behind the text (right padding) come after every query that counts.
    """
    if kv_offset or not _is_causal(mask_function, q_length, int(q_offset), kv_length):
        raise UnsupportedCapability(
            f"{NAME} attends to all earlier tokens or to blocks of them; asked for another mask (a sliding window "
            "shorter than the text, chunks, packed sequences, or one of the model's own): set sliding_window to None, "
            "pad sequences instead of packing them, or use attn_implementation='sdpa'"
        )
    end = int(q_offset) + q_length
    if attention_mask is None:
        first = torch.zeros(batch_size, dtype=torch.int64)
    else:
        first = _first_keys(attention_mask[:, :end])
    if end == kv_length and not first.any():
        return None
    return torch.stack([first, torch.full_like(first, end)], 1)[:, None, None]


def constants(config: Any) -> SparseConfig:
    """``config.sparse_config``, or the published constants with a warning (Python shows it once)."""
    found = getattr(config, "sparse_config", None)
    if isinstance(found, SparseConfig):
        return found
    if isinstance(found, Mapping):
        return SparseConfig.from_hf(found)
    sparse = SparseConfig()
    warnings.warn(
        f"{NAME}: the model's configuration has no sparse_config, so MiniCPM4's constants are used; beyond "
        f"{sparse.dense_len} tokens a model that was not trained for sparse attention loses quality. "
        "Set config.sparse_config to choose them.",
        stacklevel=2,
    )
    return sparse


def _refuse(module: Any, key: Tensor, value: Tensor, dropout: float, options: Mapping[str, Any]) -> None:
    """Raise for everything that would be ignored."""
    asked = [name for name in REFUSED if options.get(name) is not None and options[name] is not False]
    if dropout:
        asked.append(f"dropout {dropout:g}")
    window = options.get("sliding_window")
    if window is not None and key.shape[2] > window:
        asked.append(f"a sliding window of {window} over {key.shape[2]} keys")
    if options.get("is_causal", getattr(module, "is_causal", True)) is False:
        asked.append("attention that is not causal")
    if key.shape[-1] != value.shape[-1]:
        asked.append(f"values of {value.shape[-1]} beside keys of {key.shape[-1]}")
    if asked:
        raise UnsupportedCapability(
            f"{NAME} can't do what {type(module).__name__} asks for: {', '.join(asked)}; change the model's "
            "configuration, or use attn_implementation='sdpa'"
        )


def _is_causal(mask: Callable[..., Any], rows: int, first: int, keys: int) -> bool:
    """Whether a mask function is causal, by the places where others differ: last row, first column, next token."""
    if mask is causal_mask_function:
        return True
    queries = torch.arange(first, first + rows)
    last, zero = queries[-1:], torch.zeros(1, dtype=torch.int64)
    earlier = torch.arange(min(first + rows, keys))
    later = queries[queries + 1 < keys] if rows == keys else queries[:0]
    try:
        sees = (mask(zero, zero, last, earlier), mask(zero, zero, queries, zero))
        peeks = mask(zero, zero, later, later + 1)
    except (IndexError, RuntimeError):  # one that looks up what it was not made for
        return False
    return all(bool(torch.as_tensor(part).all()) for part in sees) and not bool(torch.as_tensor(peeks).any())


def _first_keys(mask: Tensor) -> Tensor:
    """First key of each sequence, int64 [B] on the CPU, of a padding mask [B, tokens]; raises if there are holes."""
    present = mask.bool().cpu()
    first = present.int().argmax(1)
    runs = (present[:, 1:] & ~present[:, :-1]).sum(1) + present[:, 0]
    if bool((runs > 1).any()):
        raise UnsupportedCapability(
            f"{NAME} takes sequences that are padded on one side; the attention mask of sequence "
            f"{int((runs > 1).int().argmax())} has a hole. Pad on the left to generate"
        )
    return torch.where(present.any(1), first, mask.shape[1])


register()
