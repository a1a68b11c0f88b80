"""The head of a GGUF file: one pass of a cursor that never leaves the file.

Magic ``GGUF``, version, number of tensors and of keys; the keys with typed values; for every tensor name, dimensions
(fastest first), type and offset. Every count is checked against the bytes that are left before memory is asked for.
"""

import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from whimbrel.errors import FormatError
from whimbrel.formats.ggml_types import TYPES, TensorType

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_ARRAY_DEPTH = 4

STRING, ARRAY = 8, 9
SCALARS: dict[int, tuple[str, str]] = {
    0: ("B", "u1"), 1: ("b", "i1"), 2: ("<H", "<u2"), 3: ("<h", "<i2"), 4: ("<I", "<u4"), 5: ("<i", "<i4"),
    6: ("<f", "<f4"), 7: ("B", "u1"), 10: ("<Q", "<u8"), 11: ("<q", "<i8"), 12: ("<d", "<f8"),
}  # fmt: skip
BOOL = 7
_MIN_KEY_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """Where one tensor lies. ``shape`` is in numpy order: a weight is ``(N, K)``, a vector ``(K,)``."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    """bytes from the start of the file"""
    nbytes: int

    @property
    def rows(self) -> int:
        """All dimensions but the last, multiplied."""
        return math.prod(self.shape[:-1])


class StringArray(Sequence[str]):
    """Strings of the header, decoded on first use (UTF-8, invalid bytes replaced)."""

    def __init__(self, raw: list[bytes]) -> None:
        self._raw = raw
        self._decoded: list[str] | None = None

    def decode(self) -> list[str]:
        """All of them as a list; repeated calls give the same one."""
        if self._decoded is None:
            self._decoded = [text.decode("utf-8", "replace") for text in self._raw]
        return self._decoded

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self.decode()[index]

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Iterator[str]:
        return iter(self.decode())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"StringArray({len(self)} strings)"


class Header:
    """What the head of a file says: ``version``, ``metadata``, ``tensors``. Raises ``FormatError``."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.map, self.size = path, data, len(data)
        self.at = 0
        self.place = "start of the file"
        self.version, tensors, keys = self._preamble()
        self.metadata = self._read_metadata(keys)
        self.alignment = self._read_alignment()
        self.tensors = self._read_tensors(tensors)

    def error(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {self.place}, byte {self.at}: {what}")

    def need(self, count: int, what: str) -> None:
        if count > self.size - self.at:
            raise self.error(
                f"{what} needs {count} bytes, {self.size - self.at} are left; "
                "the file is truncated or corrupt, download it again"
            )

    def scalar(self, code: str, what: str) -> Any:
        size = struct.calcsize(code)
        self.need(size, what)
        (value,) = struct.unpack_from(code, self.map, self.at)
        self.at += size
        return value

    def text(self, what: str) -> bytes:
        length: int = self.scalar("<Q", f"length of {what}")
        self.need(length, what)
        start, self.at = self.at, self.at + length
        return self.map[start : self.at]

    def name(self, what: str) -> str:
        try:
            return self.text(what).decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what} is not UTF-8; the file is corrupt") from None

    def _preamble(self) -> tuple[int, int, int]:
        if self.map[:4] != MAGIC:
            raise self.error(f"not a GGUF file: it begins with {self.map[:4]!r}, not {MAGIC!r}")
        self.at = 4
        version: int = self.scalar("<I", "version")
        if version not in (2, 3):
            big = version in (0x02000000, 0x03000000)
            found = "big-endian" if big else f"version {version}"
            raise self.error(f"{found} GGUF is not supported; convert it to little-endian version 3")
        tensors: int = self.scalar("<Q", "number of tensors")
        keys: int = self.scalar("<Q", "number of keys")
        self.need(tensors * _MIN_TENSOR_BYTES + keys * _MIN_KEY_BYTES, f"{keys} keys and {tensors} tensors")
        return version, tensors, keys

    def _read_metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for index in range(count):
            self.place = f"key {index}"
            key = self.name("its name")
            self.place = f"key {key!r}"
            if key in metadata:
                raise self.error("appears twice; the file is corrupt")
            metadata[key] = self.value(self.scalar("<I", "its type"))
        return metadata

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of the given type number."""
        if kind == STRING:
            return self.text("its text").decode("utf-8", "replace")
        if kind == ARRAY:
            return self.array(depth)
        if kind not in SCALARS:
            raise self.error(f"type {kind} does not exist; the file is corrupt or newer than this reader")
        value = self.scalar(SCALARS[kind][0], "its value")
        return bool(value) if kind == BOOL else value

    def array(self, depth: int) -> Any:
        kind: int = self.scalar("<I", "type of its elements")
        count: int = self.scalar("<Q", "number of its elements")
        if kind == STRING:
            return self.strings(count)
        if kind == ARRAY:
            if depth >= MAX_ARRAY_DEPTH:
                raise self.error(f"arrays are nested more than {MAX_ARRAY_DEPTH} deep")
            self.need(count * 12, f"{count} arrays")
            return [self.array(depth + 1) for _ in range(count)]
        if kind not in SCALARS:
            raise self.error(f"element type {kind} does not exist; the file is corrupt or newer than this reader")
        dtype = np.dtype(bool if kind == BOOL else SCALARS[kind][1])
        self.need(count * dtype.itemsize, f"{count} elements")
        values = np.frombuffer(self.map, np.uint8, count * dtype.itemsize, self.at)
        self.at += values.nbytes
        return values.astype(bool) if kind == BOOL else values.view(dtype).copy()

    def strings(self, count: int) -> StringArray:
        self.need(count * 8, f"{count} strings")
        # Hot: a vocabulary and its merges are 100,000 strings, 20 ms in this loop and 60 through text().
        data, at, end = self.map, self.at, self.size
        raw: list[bytes] = []
        unpack, append = struct.Struct("<Q").unpack_from, raw.append
        try:
            for _ in range(count):
                (length,) = unpack(data, at)
                at += 8
                if length > end - at:
                    raise struct.error
                append(data[at : at + length])
                at += length
        except struct.error:
            self.at = min(at, end)
            raise self.error(
                f"string {len(raw)} of {count} runs past the end; the file is truncated or corrupt"
            ) from None
        self.at = at
        return StringArray(raw)

    def _read_alignment(self) -> int:
        self.place = "key 'general.alignment'"
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self.error(f"alignment {alignment!r} is not a power of two; the file is corrupt")
        return alignment

    def _read_tensors(self, count: int) -> dict[str, TensorInfo]:
        found = [self._tensor(index) for index in range(count)]
        start = -(-self.at // self.alignment) * self.alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in found:
            self.place = f"tensor {name!r}"
            if name in tensors:
                raise self.error("appears twice; the file is corrupt")
            tensors[name] = self._placed(name, shape, kind, start + offset)
        return tensors

    def _tensor(self, index: int) -> tuple[str, tuple[int, ...], TensorType, int]:
        self.place = f"description of tensor {index}"
        name = self.name("its name")
        self.place = f"tensor {name!r}"
        dimensions: int = self.scalar("<I", "number of dimensions")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self.error(f"{dimensions} dimensions, 1 to {MAX_DIMENSIONS} are possible; the file is corrupt")
        shape = tuple(self.scalar("<Q", "a dimension") for _ in range(dimensions))[::-1]
        kind: int = self.scalar("<I", "its type")
        offset: int = self.scalar("<Q", "its offset")
        if kind not in TYPES:
            raise self.error(f"tensor type {kind} does not exist; the file is corrupt or newer than this reader")
        if offset % self.alignment:
            raise self.error(
                f"offset {offset} is not a multiple of the alignment {self.alignment}; the file is corrupt"
            )
        return name, shape, TYPES[kind], offset

    def _placed(self, name: str, shape: tuple[int, ...], kind: TensorType, offset: int) -> TensorInfo:
        elements = 1
        for length in shape:
            elements *= length
        if elements == 0:
            raise self.error(f"shape {shape} has no elements; the file is corrupt")
        if shape[-1] % kind.block:
            raise self.error(f"rows of {shape[-1]} are no whole number of {kind.name} blocks of {kind.block}")
        nbytes = elements // kind.block * kind.size
        if offset + nbytes > self.size:
            raise self.error(
                f"data lies at bytes {offset} to {offset + nbytes}, the file ends at {self.size}; "
                "it is truncated or corrupt, download it again"
            )
        return TensorInfo(name=name, shape=shape, type=kind, offset=offset, nbytes=nbytes)
