"""SentencePiece vocabularies (BPE): the model file, and the same pieces as a backend of the ``tokenizers`` library.

Pieces join in the order of their scores; bytes that no piece covers become tokens like ``<0x0A>``.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whimbrel.errors import FormatError, UnsupportedModel
from whimbrel.models.vocabulary import NORMAL, UNKNOWN, USER_DEFINED, add_tokens, build, vocabulary

if TYPE_CHECKING:
    import tokenizers

_BPE = 2
"""``model_type`` of the trainer's settings"""


def read_tokenizer_model(path: Path) -> tuple["tokenizers.Tokenizer", bool]:
    """A SentencePiece model file (protobuf): the tokenizer, and whether it puts a space before the text."""
    from tokenizers import normalizers

    try:
        model = _ModelProto(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise FormatError(f"{path}: is no SentencePiece model, or damaged: {error}") from None
    if model.kind != _BPE:
        raise UnsupportedModel(f"{path}: SentencePiece model type {model.kind} is not supported, only BPE (2)")
    backend = sentencepiece(model.pieces, model.scores, model.types, model.space_prefix)
    if model.charsmap and backend.normalizer is not None:
        backend.normalizer = normalizers.Sequence([normalizers.Precompiled(model.charsmap), backend.normalizer])
    add_tokens(backend, model.pieces, model.types)
    return backend, model.space_prefix


def sentencepiece(
    tokens: list[str], scores: list[float], types: Sequence[int], space_prefix: bool
) -> "tokenizers.Tokenizer":
    """A BPE that joins pieces in the order of their scores, with bytes for what no piece covers."""
    from tokenizers import models, normalizers

    if len(scores) != len(tokens):
        raise FormatError(f"tokenizer: {len(tokens)} pieces but {len(scores)} scores; the file is corrupt")
    ids = vocabulary(tokens)
    unknown = next((tokens[i] for i, type in enumerate(types) if type == UNKNOWN), None)
    merges = _merges_by_score(ids, scores, types)
    backend = build(models.BPE, vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    steps: list[Any] = [normalizers.Prepend("▁")] if space_prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    return backend


def _merges_by_score(ids: Mapping[str, int], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others; best score first, then by the parts' ids."""
    joinable = (NORMAL, USER_DEFINED)
    ranked = []
    for piece, index in ids.items():
        if types and types[index] not in joinable:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                ranked.append((-scores[index], ids[left], ids[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


class _ModelProto:
    """The fields of SentencePiece's ModelProto that matter here (sentencepiece_model.proto)."""

    def __init__(self, data: bytes) -> None:
        self.pieces: list[str] = []
        self.scores: list[float] = []
        self.types: list[int] = []
        self.kind, self.charsmap, self.space_prefix = 1, b"", True
        for number, value in _fields(data):
            if number == 1 and isinstance(value, bytes):
                fields = dict(_fields(value))
                self.pieces.append(bytes(fields.get(1, b"")).decode("utf-8"))
                self.scores.append(struct.unpack("<f", fields.get(2, bytes(4)))[0])
                self.types.append(int(fields.get(3, 1)))
            elif number == 2 and isinstance(value, bytes):
                self.kind = int(dict(_fields(value)).get(3, 1))
            elif number == 3 and isinstance(value, bytes):
                fields = dict(_fields(value))
                self.charsmap, self.space_prefix = bytes(fields.get(2, b"")), bool(fields.get(3, 1))
        if not self.pieces:
            raise ValueError("it has no pieces")


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protobuf message: int for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > len(data) - at:
            raise ValueError(f"a field at byte {at} is longer than the file")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number at byte {at} has no end")
