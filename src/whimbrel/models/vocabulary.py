"""What tokenizers of every source are built with: a vocabulary without doubles, a backend, special tokens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from whimbrel.errors import FormatError

if TYPE_CHECKING:
    import tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Types of tokens, by the numbers that SentencePiece and GGUF share (5: unused, 6: byte)."""


def vocabulary(tokens: list[str]) -> dict[str, int]:
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) < len(tokens):
        twice = next(token for index, token in enumerate(tokens) if ids[token] != index)
        raise FormatError(f"tokenizer: {twice!r} is in the vocabulary twice; the file is corrupt")
    return ids


def build(model: Any, **arguments: Any) -> "tokenizers.Tokenizer":
    import tokenizers

    try:
        return tokenizers.Tokenizer(model(**arguments))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        raise FormatError(f"tokenizer: {error}; the vocabulary is corrupt") from None


def add_tokens(backend: "tokenizers.Tokenizer", tokens: list[str], types: Sequence[int]) -> None:
    from tokenizers import AddedToken

    marked = [(tokens[i], type) for i, type in enumerate(types) if type in (UNKNOWN, CONTROL, USER_DEFINED)]
    for special in (True, False):
        group = [text for text, type in marked if (type != USER_DEFINED) == special and text]
        added = [AddedToken(text, special=special, normalized=False) for text in group]
        backend.add_special_tokens(added) if special else backend.add_tokens(added)
