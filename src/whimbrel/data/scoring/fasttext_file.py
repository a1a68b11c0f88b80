"""A supervised fastText ``.bin`` file, read without fastText: no compiler, and the 2 GB input matrix stays mapped.

The layout is the program's own (version 11 and 12): arguments, dictionary, input matrix, output matrix. What is left out is
said by name: quantised files, character n-grams, and losses other than softmax; ``fasttext`` itself reads those.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whimbrel.errors import FormatError, ModelNotFound, UnsupportedModel

MAGIC, VERSIONS = 793712314, (11, 12)
SUPERVISED, SOFTMAX = 3, 3
LABEL = "__label__"
EOS = "</s>"
SEPARATORS = " \n\r\t\v\f\0"
"""the characters at which fastText ends a word"""
_ARGUMENTS = (
    "dim",
    "ws",
    "epoch",
    "min_count",
    "neg",
    "word_ngrams",
    "loss",
    "model",
    "bucket",
    "minn",
    "maxn",
    "rate",
)


@dataclass(frozen=True, kw_only=True)
class FastTextFile:
    """What a ``.bin`` file holds. ``input`` float32 [words + bucket, dim] is a memory map, ``output`` float32 [labels, dim]."""

    path: str
    word_ngrams: int
    bucket: int
    words: dict[str, int]
    labels: tuple[str, ...]
    input: NDArray[np.float32]
    output: NDArray[np.float32]

    @classmethod
    def open(cls, path: str | Path) -> "FastTextFile":
        """Read the dictionary and map the matrices.

        Raises ModelNotFound; FormatError when the file is cut off or no fastText model; UnsupportedModel when it is one
        that this reader leaves to the official package.
        """
        if not Path(path).is_file():
            raise ModelNotFound(f"no fastText model at {path}: a .bin file that `fasttext` or `train-classifier` wrote")
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if Path(path).stat().st_size else b""
        try:
            return _parse(str(path), data)
        except (struct.error, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path} ends in the middle of its model ({len(data)} bytes): {error}") from error


def _parse(path: str, data: "mmap.mmap | bytes") -> FastTextFile:
    magic, version = struct.unpack_from("<2i", data, 0)
    if magic != MAGIC or version not in VERSIONS:
        raise FormatError(f"{path} is no fastText model: magic {magic}, version {version}; want {MAGIC}, {VERSIONS}")
    argument = dict(zip(_ARGUMENTS, struct.unpack_from("<12i", data, 8), strict=True))
    _check(path, argument, version)
    words, labels, at = _dictionary(path, data, 8 + 12 * 4 + 8)
    table, at = _matrix(path, data, at)
    output, at = _matrix(path, data, at)
    if len(table) < len(words) + argument["bucket"] * (argument["word_ngrams"] > 1) or len(output) != len(labels):
        raise FormatError(f"{path}: {len(table)} rows for {len(words)} words and {argument['bucket']} buckets")
    return FastTextFile(
        path=path,
        word_ngrams=argument["word_ngrams"],
        bucket=argument["bucket"],
        words=words,
        labels=labels,
        input=table,
        output=output,
    )


def _check(path: str, argument: dict[str, int], version: int) -> None:
    problem = None
    if argument["model"] != SUPERVISED:
        problem = "is no classifier (it was not trained with `supervised`)"
    elif argument["loss"] != SOFTMAX:
        problem = f"was trained with loss {argument['loss']}, want softmax"
    elif argument["maxn"] > 0 and version > 11:
        problem = f"uses character n-grams up to {argument['maxn']}"
    if problem:
        raise UnsupportedModel(f"{path} {problem}; the package `fasttext` reads it, this reader does not")


def _dictionary(path: str, data: "mmap.mmap | bytes", at: int) -> tuple[dict[str, int], tuple[str, ...], int]:
    size, nwords, nlabels = struct.unpack_from("<3i", data, at)
    _, pruned = struct.unpack_from("<2q", data, at + 12)
    if pruned >= 0:
        raise UnsupportedModel(f"{path} is pruned or quantised; the package `fasttext` reads it, this reader does not")
    at += 28
    words: dict[str, int] = {}
    labels: list[str] = []
    for index in range(size):
        end = data.find(b"\0", at)
        if end < 0 or end + 10 > len(data):
            raise FormatError(f"{path} ends in its dictionary, at entry {index} of {size}, byte {at}")
        text = bytes(data[at:end]).decode("utf-8", "surrogateescape")
        if data[end + 9] == 0:
            words[text] = index
        else:
            labels.append(text)
        at = end + 10
    if len(words) != nwords or len(labels) != nlabels:
        raise FormatError(f"{path}: {len(words)} words and {len(labels)} labels; its header says {nwords}, {nlabels}")
    return words, tuple(labels), at


def _matrix(path: str, data: "mmap.mmap | bytes", at: int) -> tuple[NDArray[np.float32], int]:
    if data[at : at + 1] not in (b"\0", b"\1"):
        raise FormatError(f"{path} ends before its matrix, at byte {at}")
    if data[at] == 1:
        raise UnsupportedModel(f"{path} is quantised; the package `fasttext` reads it, this reader does not")
    rows, columns = struct.unpack_from("<2q", data, at + 1)
    end = at + 17 + rows * columns * 4
    if end > len(data):
        raise FormatError(
            f"{path} is cut off: a matrix of {rows} x {columns} ends at byte {end}, the file at {len(data)}"
        )
    return np.frombuffer(data, np.float32, rows * columns, at + 17).reshape(rows, columns), end


def word_hash(word: str) -> int:
    """FNV-1a over the bytes of a word, each taken as a signed char as fastText does; an unsigned 32-bit number."""
    value = 2166136261
    for byte in word.encode("utf-8", "surrogateescape"):
        value = ((value ^ (byte | 0xFFFFFF00 if byte > 127 else byte)) * 16777619) & 0xFFFFFFFF
    return value
