"""The tokenizer of a GGUF file: its ``tokenizer.ggml`` keys.

Byte-level vocabularies come with the merges and one word, ``pre``, that stands for llama.cpp's regular expressions;
SentencePiece vocabularies with scores. Ids are those of llama.cpp (``tests/peers`` compares megabytes of text).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from whimbrel.errors import FormatError, UnsupportedModel
from whimbrel.models.sentencepiece import sentencepiece
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.models.vocabulary import CONTROL, add_tokens, build, vocabulary

if TYPE_CHECKING:
    import tokenizers

_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _modern_split(digits: str) -> str:
    """The expression of the tiktoken family, with its rule for digits."""
    contractions = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    return rf"{contractions}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_SPLITS: dict[str, tuple[str, ...]] = {
    "gpt2": (_GPT2_SPLIT,),
    "digits": (r"\p{N}", _GPT2_SPLIT),
    "llama3": (_modern_split(r"\p{N}{1,3}"),),
    "qwen2": (_modern_split(r"\p{N}"),),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_SPLIT, r"[0-9][0-9][0-9]"),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2_SPLIT, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
"""Applied one after the other; what a pattern does not match stays a piece of its own."""

_PRE_TYPES = {
    "default": "default",
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "mellum"), "gpt2"),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), "digits"),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2", "dbrx", "smaug-bpe"), "llama3"),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"), "qwen2"),
    "falcon": "falcon",
}
_WHOLE_WORDS_FIRST = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"})
"""Pre-tokenizers whose models take a word that is in the vocabulary without merging, and add BOS by default."""

_END_OF_GENERATION = frozenset(
    {
        "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>",
        "<EOT>", "< EOT >", "_<EOT>", "<|EOT|>", "<｜end▁of▁sentence｜>",
    }
)  # fmt: skip
"""Control tokens that end an answer whatever the metadata says."""


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Raises ``FormatError`` for what is missing or damaged, ``UnsupportedModel`` for other kinds of tokenizers."""
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    types = _numbers(metadata, "tokenizer.ggml.token_type")
    if types and len(types) != len(tokens):
        raise FormatError(f"GGUF tokenizer: {len(tokens)} tokens but {len(types)} token types; the file is corrupt")
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        backend, add_bos = _gguf_bpe(metadata, tokens)
        space_prefix = False
    elif kind == "llama":
        scores = _numbers(metadata, "tokenizer.ggml.scores")
        space_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
        backend = sentencepiece(tokens, scores, types, space_prefix)
        add_bos = True
    else:
        raise UnsupportedModel(f"GGUF tokenizer {kind!r} is not supported; this build reads gpt2 and llama")
    add_tokens(backend, tokens, types)
    bos, eos = (_gguf_id(metadata, key, len(tokens)) for key in ("bos_token_id", "eos_token_id"))
    eot = _gguf_id(metadata, "eot_token_id", len(tokens))
    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos)) and bos is not None
    add_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False)) and eos is not None
    named = (i for i, type in enumerate(types) if type == CONTROL and tokens[i] in _END_OF_GENERATION)
    return Tokenizer(
        backend,
        bos_token_id=bos,
        eos_token_ids=[id for id in (eos, eot, *named) if id is not None],
        prefix=[bos] if add_bos and bos is not None else [],
        suffix=[eos] if add_eos and eos is not None else [],
        space_prefix=space_prefix,
    )


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = metadata.get(key)
    strings = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if not strings or not all(isinstance(item, str) for item in strings):
        raise FormatError(f"GGUF tokenizer: {key} is missing; convert the model again with its tokenizer")
    return strings


def _numbers(metadata: Mapping[str, Any], key: str) -> list[Any]:
    """An array of numbers as a list of Python's, which loops read five times faster than numpy's; empty if absent."""
    value = metadata.get(key, ())
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(numbers, list | tuple) or not all(isinstance(number, int | float) for number in numbers):
        raise FormatError(f"GGUF tokenizer: {key} is no array of numbers; the file is corrupt")
    return list(numbers)


def _gguf_id(metadata: Mapping[str, Any], key: str, size: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < size:
        raise FormatError(f"GGUF tokenizer: {key} is {value!r}, outside of the vocabulary of {size}")
    return value


def _gguf_bpe(metadata: Mapping[str, Any], tokens: list[str]) -> tuple["tokenizers.Tokenizer", bool]:
    """The byte-level tokenizer, and whether its kind adds BOS unless told otherwise."""
    from tokenizers import decoders, models, pre_tokenizers

    pre = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(pre, str) or pre not in _PRE_TYPES:
        raise UnsupportedModel(f"GGUF pre-tokenizer {pre!r} is not supported; this build knows {', '.join(_PRE_TYPES)}")
    merges = [_merge(text) for text in _strings(metadata, "tokenizer.ggml.merges")]
    whole = pre in _WHOLE_WORDS_FIRST
    backend = build(models.BPE, vocab=vocabulary(tokens), merges=merges, ignore_merges=whole)
    backend.pre_tokenizer = pre_tokenizers.Sequence(_splitters(_SPLITS[_PRE_TYPES[pre]]))
    backend.decoder = decoders.ByteLevel()
    return backend, whole


def _splitters(patterns: tuple[str, ...]) -> list[Any]:
    from tokenizers import Regex, pre_tokenizers

    # The library's own GPT-2 expression is the same and faster than one through Split.
    builtin = patterns[-1] == _GPT2_SPLIT
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in (patterns[:-1] if builtin else patterns)]
    return [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=builtin)]


def _merge(text: str) -> tuple[str, str]:
    left, _, right = text.partition(" ")
    if not left or not right:
        raise FormatError(f"GGUF tokenizer: merge {text!r} is not two tokens; the file is corrupt")
    return left, right
