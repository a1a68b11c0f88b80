"""GGUF: one file with metadata, a tokenizer and tensors. A reader over a memory map, and a small writer.

The file: magic ``GGUF``, version, number of tensors and of keys; the keys with typed values; for every tensor name,
dimensions (fastest first), type and offset; padding to the alignment; the tensors' data. Everything is little-endian.
Versions 2 and 3 are read; they differ in nothing that little-endian readers see.

The reader trusts nothing: every count is checked against the bytes that are left before memory is asked for, so a
damaged file gives a ``FormatError`` with file, place and reason. Opening reads the header only. Strings of long
arrays (a vocabulary) are found in one pass and decoded when they are first used.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, ModelNotFound
from whimbrel.formats import ggml_types
from whimbrel.formats.ggml_types import BY_NAME, TYPES, TensorType
from whimbrel.formats.packed import PackedTensor, empty, row_chunks

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_ARRAY_DEPTH = 4

_STRING, _ARRAY = 8, 9
_SCALARS: dict[int, tuple[str, str]] = {
    0: ("B", "u1"), 1: ("b", "i1"), 2: ("<H", "<u2"), 3: ("<h", "<i2"), 4: ("<I", "<u4"), 5: ("<i", "<i4"),
    6: ("<f", "<f4"), 7: ("B", "u1"), 10: ("<Q", "<u8"), 11: ("<q", "<i8"), 12: ("<d", "<f8"),
}  # fmt: skip
_BOOL = 7
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
        return int(np.prod(self.shape[:-1], dtype=np.int64))


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


class GGUFFile:
    """An open GGUF file: ``metadata`` (key -> value), ``tensors`` (name -> TensorInfo), and their data.

    Values of metadata are int, float, bool, str, numpy arrays (arrays of numbers), ``StringArray``, or lists of those.
    Raises ``ModelNotFound`` when there is no such file, ``FormatError`` when it is not a sound GGUF file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._map = _map_file(self.path)
        header = _Header(self.path, self._map)
        self.version = header.version
        self.metadata: dict[str, Any] = header.metadata
        self.tensors: dict[str, TensorInfo] = header.tensors

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor as they lie in the file: ``uint8 [nbytes]``, read-only, no copy."""
        info = self.tensors[name]
        return np.frombuffer(self._map, np.uint8, info.nbytes, info.offset)

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """The bytes of rows ``[start, stop)`` of a tensor: ``uint8 [rows, row bytes]``, read-only, no copy."""
        info = self.tensors[name]
        return self.data(name).reshape(info.rows, -1)[start:stop]

    def dequantize(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows ``[start, stop)`` of a tensor in fp32; without them the whole tensor in its shape."""
        info = self.tensors[name]
        values = ggml_types.dequantize(info.type, self.rows(name, start, stop))
        return values.reshape(info.shape) if start == 0 and stop is None else values

    def dequantize_rows(
        self, name: str, start: int, stop: int, row_order: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[np.float32]:
        """Rows ``row_order[start:stop]`` of a matrix (or rows ``[start, stop)``) in fp32."""
        raw = self.rows(name)
        chunk = raw[start:stop] if row_order is None else raw[row_order[start:stop]]
        return ggml_types.dequantize(self.tensors[name].type, chunk)

    def repack(
        self,
        name: str,
        *,
        row_order: npt.NDArray[np.intp] | None = None,
        out: PackedTensor | None = None,
    ) -> PackedTensor:
        """A tensor ``[N, K]`` in the layout that fits its type (table in ``ggml_types``).

        Row ``i`` of the result is row ``row_order[i]`` of the file. ``out`` takes the result when given (for
        interleaving). Read in chunks; pages of the file that are done are given back to the system.
        """
        info = self.tensors[name]
        if len(info.shape) != 2:
            raise self._error(f"tensor {name!r}", f"a matrix was expected, its shape is {info.shape}")
        kind, (n, k) = info.type, info.shape
        if not kind.layout:
            ggml_types.floats(kind, np.empty((0, 0), np.uint8))
        if out is None:
            out = empty(kind.layout, (n, k), kind.group, mins=kind.mins)
        raw = self.rows(name)
        for first, last, blocks in row_chunks((n, k)):
            chunk = raw[first:last] if row_order is None else raw[row_order[first:last]]
            ggml_types.repack(kind, chunk, out, blocks)
        self.drop_pages(name)
        return out

    def drop_pages(self, name: str) -> None:
        """Tell the system that a tensor's pages of the file are not needed in this process any more."""
        info = self.tensors[name]
        start = info.offset // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(self._map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, info.offset + info.nbytes - start)

    def _error(self, where: str, what: str) -> FormatError:
        return FormatError(f"{self.path}: {where}: {what}")


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise FormatError(f"{path}: the file is empty; download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelNotFound(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path}: can't be read: {error}") from None


class _Header:
    """One pass over the head of a file: a cursor that never leaves it."""

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
        if kind == _STRING:
            return self.text("its text").decode("utf-8", "replace")
        if kind == _ARRAY:
            return self.array(depth)
        if kind not in _SCALARS:
            raise self.error(f"type {kind} does not exist; the file is corrupt or newer than this reader")
        value = self.scalar(_SCALARS[kind][0], "its value")
        return bool(value) if kind == _BOOL else value

    def array(self, depth: int) -> Any:
        kind: int = self.scalar("<I", "type of its elements")
        count: int = self.scalar("<Q", "number of its elements")
        if kind == _STRING:
            return self.strings(count)
        if kind == _ARRAY:
            if depth >= MAX_ARRAY_DEPTH:
                raise self.error(f"arrays are nested more than {MAX_ARRAY_DEPTH} deep")
            self.need(count * 12, f"{count} arrays")
            return [self.array(depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            raise self.error(f"element type {kind} does not exist; the file is corrupt or newer than this reader")
        dtype = np.dtype(bool if kind == _BOOL else _SCALARS[kind][1])
        self.need(count * dtype.itemsize, f"{count} elements")
        values = np.frombuffer(self.map, np.uint8, count * dtype.itemsize, self.at)
        self.at += values.nbytes
        return values.astype(bool) if kind == _BOOL else values.view(dtype).copy()

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


# Writing.


@dataclass(frozen=True, kw_only=True, slots=True)
class RawTensor:
    """A tensor to be written in a quantized type: its shape in weights, and its bytes."""

    shape: tuple[int, ...]
    type: str
    data: npt.NDArray[np.uint8]


def write_gguf(
    path: str | os.PathLike[str], metadata: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any] | RawTensor]
) -> None:
    """Write a GGUF version 3 file.

    Metadata values: bool, int (u32; i32 if negative, u64 or i64 if large), float (f32), str, numpy arrays, or lists
    of str, int (i32, or i64 if large) or float. Tensors: float32, float16, uint16 (bf16 bits) arrays, or ``RawTensor``. The file appears
    under its name when it is complete.
    """
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    raw = {name: _as_raw(name, tensor) for name, tensor in tensors.items()}
    try:
        with partial.open("wb") as file:
            file.write(MAGIC + struct.pack("<IQQ", 3, len(raw), len(metadata)))
            for key, value in metadata.items():
                file.write(_text(key) + _typed(value))
            _write_tensors(file.write, file.tell, raw, int(metadata.get("general.alignment", DEFAULT_ALIGNMENT)))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _write_tensors(
    write: Callable[[bytes], int], tell: Callable[[], int], tensors: Mapping[str, RawTensor], alignment: int
) -> None:
    offset = 0
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]
        write(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        write(struct.pack("<IQ", BY_NAME[tensor.type].id, offset))
        offset += -(-tensor.data.nbytes // alignment) * alignment
    for tensor in tensors.values():
        write(bytes(-tell() % alignment))
        write(tensor.data.tobytes())
    write(bytes(-tell() % alignment))


def _as_raw(name: str, tensor: npt.NDArray[Any] | RawTensor) -> RawTensor:
    if isinstance(tensor, RawTensor):
        return tensor
    types = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.uint16): "BF16"}
    if tensor.dtype not in types:
        raise FormatError(f"tensor {name!r}: can't write {tensor.dtype} to GGUF; use float32, float16 or bf16 bits")
    return RawTensor(shape=tensor.shape, type=types[tensor.dtype], data=np.ascontiguousarray(tensor).view(np.uint8))


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8")
    return struct.pack("<Q", len(encoded)) + encoded


def _typed(value: Any) -> bytes:
    if isinstance(value, np.ndarray):
        kind = next(k for k, (_, dtype) in _SCALARS.items() if np.dtype(dtype) == value.dtype and k != _BOOL)
        return struct.pack("<IIQ", _ARRAY, kind, value.size) + value.tobytes()
    if isinstance(value, Sequence) and not isinstance(value, str):
        kind = _array_kind(value)
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + b"".join(_bare(kind, item) for item in value)
    kind = _kind(value)
    return struct.pack("<I", kind) + _bare(kind, value)


def _array_kind(values: Sequence[Any]) -> int:
    """One type for all: i32 where ints fit, since readers expect it for token types; else the widest needed."""
    kinds = {_kind(value) for value in values}
    if kinds <= {4, 5, 6, 10, 11} and 6 in kinds:
        return 6
    if kinds and kinds <= {4, 5}:
        return 5 if max(values) < 1 << 31 else 11
    if kinds <= {4, 5, 10, 11} and kinds:
        return 11
    if len(kinds) > 1:
        raise FormatError(f"can't write a list of different types to GGUF metadata: {values!r:.60}")
    return kinds.pop() if kinds else _STRING


def _kind(value: Any) -> int:
    if isinstance(value, str):
        return _STRING
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, float):
        return 6
    if isinstance(value, int):
        small = 5 if value < 0 else 4
        return small if -(1 << 31) <= value < 1 << 32 else (11 if value < 0 else 10)
    raise FormatError(f"can't write a {type(value).__name__} to GGUF metadata: {value!r}")


def _bare(kind: int, value: Any) -> bytes:
    return _text(value) if kind == _STRING else struct.pack(_SCALARS[kind][0], value)
