"""Wire: pieces and completions as OpenAI writes them, where several routes need the same."""

from collections.abc import Sequence
from typing import Any

from whimbrel.backends.executor import FinishReason, TokenLogprob, Usage
from whimbrel.backends.results import Completion, Piece
from whimbrel.models.tokenizer import Tokenizer


def finish_reason(completion: Completion) -> str:
    """ "stop", "length" or "tool_calls". An answer that was stopped from outside has no reader."""
    if completion.finish_reason == FinishReason.LENGTH:
        return "length"
    return "tool_calls" if completion.tool_calls else "stop"


def usage(completions: Sequence[Completion]) -> dict[str, Any]:
    """Tokens of one prompt and its answers."""
    first = completions[0].usage
    written = sum(completion.usage.completion_tokens for completion in completions)
    return {
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": first.prompt_tokens + written,
        "prompt_tokens_details": {"cached_tokens": first.cached_tokens},
        **_extras(first),
    }


def _extras(used: Usage) -> dict[str, Any]:
    """What a client should know beyond OpenAI's fields: what was cut off, and why the cache served no more."""
    extras: dict[str, Any] = {}
    if used.truncated_tokens:
        extras["truncated_tokens"] = used.truncated_tokens
    if used.cache_miss is not None:
        extras["cache_miss"] = used.cache_miss
    return extras


def timings(completion: Completion) -> dict[str, Any]:
    """Speeds as llama.cpp's server has them, which clients show."""
    used, times = completion.usage, completion.timings
    read = used.prompt_tokens - used.cached_tokens
    return {
        "prompt_n": read,
        "cache_n": used.cached_tokens,
        "prompt_ms": round(times.prefill * 1e3, 3),
        "prompt_per_second": completion.prefill_rate,
        "predicted_n": used.completion_tokens,
        "predicted_ms": round(times.decode * 1e3, 3),
        "predicted_per_second": completion.decode_rate,
        "queue_ms": round(times.queue * 1e3, 3),
    }


def progress(piece: Piece) -> dict[str, Any]:
    """How far a prompt has been read."""
    return {
        "total": piece.prompt_tokens,
        "cached": piece.cached_tokens,
        "processed": piece.processed,
        "time_ms": round(piece.prefill * 1e3, 1),
    }


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The ``logprobs`` of a chat choice."""
    return {"content": [_entry(tokenizer, one) for one in logprobs], "refusal": None}


def _entry(tokenizer: Tokenizer, one: TokenLogprob) -> dict[str, Any]:
    top = [_token(tokenizer, id, logprob) for id, logprob in one.top]
    return {**_token(tokenizer, one.token_id, one.logprob), "top_logprobs": top}


def _token(tokenizer: Tokenizer, id: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(id)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}
