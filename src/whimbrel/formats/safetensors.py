"""Safetensors: folders of named tensors, read through memory maps without torch, and written in shards.

One file: eight bytes with the length of a JSON header, the header (name -> dtype, shape, byte range), the data.
A checkpoint is ``model.safetensors``, or shards listed by ``model.safetensors.index.json``. bf16 has no numpy type:
such tensors are ``uint16`` arrays with their bits. As strict as the format's own library: ranges may neither overlap
nor leave holes, and a damaged file is a ``FormatError`` with file, tensor and reason.
"""

import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, ModelNotFound

Array = npt.NDArray[Any]

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000
"""the limit of the format's own library"""
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype(bool), "F8_E4M3": np.dtype("u1"), "F8_E5M2": np.dtype("u1"),
}  # fmt: skip
"""numpy's type of each dtype; BF16 and F8 are their bits"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """Where one tensor lies in its file."""

    name: str
    dtype: str
    """as the header calls it: F32, F16, BF16, ..."""
    shape: tuple[int, ...]
    offset: int
    """bytes from the start of the file"""
    nbytes: int


class SafetensorsFile:
    """One open file: ``tensors`` (name -> TensorEntry) and their data.

    Raises ``ModelNotFound`` when there is no such file, ``FormatError`` when it is not sound.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._map = _map_file(self.path)
        self.tensors: dict[str, TensorEntry] = _read_header(self.path, self._map)

    def array(self, name: str) -> Array:
        """A tensor in its shape: read-only, no copy; bf16 as uint16."""
        entry = self.tensors[name]
        dtype = DTYPES[entry.dtype]
        flat = np.frombuffer(self._map, dtype, entry.nbytes // dtype.itemsize, entry.offset)
        return flat.reshape(entry.shape)

    def drop_pages(self, name: str) -> None:
        """Tell the system that a tensor's pages of the file are not needed in this process any more."""
        entry = self.tensors[name]
        start = entry.offset // mmap.PAGESIZE * mmap.PAGESIZE
        if entry.nbytes and hasattr(self._map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, entry.offset + entry.nbytes - start)


class Checkpoint:
    """All tensors of a folder, whichever shard they lie in: the same three members as ``SafetensorsFile``.

    Raises ``ModelNotFound`` when the folder has no safetensors, ``FormatError`` for a missing or damaged shard.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder)
        files, self._file_of = _open_shards(self.path)
        self.tensors: dict[str, TensorEntry] = {
            name: entry for file in files for name, entry in file.tensors.items() if self._file_of[name] is file
        }

    def array(self, name: str) -> Array:
        """A tensor in its shape: read-only, no copy; bf16 as uint16."""
        return self._file_of[name].array(name)

    def drop_pages(self, name: str) -> None:
        """Give a tensor's pages of the file back to the system."""
        self._file_of[name].drop_pages(name)


def _open_shards(folder: Path) -> tuple[list[SafetensorsFile], dict[str, SafetensorsFile]]:
    index = folder / INDEX_NAME
    if not index.is_file():
        file = SafetensorsFile(_only_file(folder))
        return [file], dict.fromkeys(file.tensors, file)
    weight_map = _read_index(index)
    shards: dict[str, SafetensorsFile] = {}
    for shard in dict.fromkeys(weight_map.values()):
        if Path(shard).name != shard:
            raise FormatError(f"{index}: shard {shard!r} is not a plain file name; the index is corrupt")
        if not (folder / shard).is_file():
            raise FormatError(f"{folder}: shard {shard} is missing, {INDEX_NAME} lists it; download it again")
        shards[shard] = SafetensorsFile(folder / shard)
    for name, shard in weight_map.items():
        if name not in shards[shard].tensors:
            raise FormatError(f"{folder / shard}: tensor {name!r} is missing, {INDEX_NAME} says it is here")
    return list(shards.values()), {name: shards[shard] for name, shard in weight_map.items()}


def _only_file(folder: Path) -> Path:
    if (folder / SINGLE_NAME).is_file():
        return folder / SINGLE_NAME
    found = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:3])
        raise FormatError(f"{folder}: {len(found)} safetensors files ({names}, ...) but no {INDEX_NAME}")
    hint = "it has pytorch_model.bin: convert it to safetensors" if any(folder.glob("*.bin")) else "is it a checkpoint?"
    raise ModelNotFound(f"{folder}: no {SINGLE_NAME} and no {INDEX_NAME}; {hint}")


def _read_index(index: Path) -> dict[str, str]:
    try:
        data = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{index}: can't be read as JSON: {error}") from None
    weight_map = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise FormatError(f"{index}: has no weight_map from tensors to files; download it again")
    return weight_map


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < 8:
                raise FormatError(f"{path}: too short for a safetensors file; download it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelNotFound(f"{path}: there is no such file") from None
    except OSError as error:
        raise FormatError(f"{path}: can't be read: {error}") from None


def _read_header(path: Path, data: mmap.mmap) -> dict[str, TensorEntry]:
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise FormatError(
            f"{path}: the header should have {length} bytes, the file has {len(data)}; it is truncated or no safetensors file"
        )
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: the header is no sound JSON: {error}") from None
    if not isinstance(header, dict):
        raise FormatError(f"{path}: the header is a {type(header).__name__}, an object was expected")
    header.pop("__metadata__", None)
    entries = [_entry(path, name, fields, 8 + length) for name, fields in header.items()]
    _check_ranges(path, entries, 8 + length, len(data))
    return {entry.name: entry for entry in entries}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found


def _entry(path: Path, name: str, fields: Any, base: int) -> TensorEntry:
    def error(what: str) -> FormatError:
        return FormatError(f"{path}: tensor {name!r}: {what}")

    if not isinstance(fields, dict):
        raise error("its description is no object")
    dtype: Any = fields.get("dtype")
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise error(f"dtype {dtype!r} is not known; this reader knows {', '.join(DTYPES)}")
    sensible = _whole_numbers(shape) and _whole_numbers(offsets) and len(shape) <= 8 and len(offsets) == 2
    if not sensible or offsets[0] > offsets[1]:
        raise error(f"shape {shape!r} or data_offsets {offsets!r} make no sense")
    nbytes = DTYPES[dtype].itemsize
    for size in shape:
        nbytes *= size
    if nbytes != offsets[1] - offsets[0]:
        raise error(f"{dtype} of shape {shape} needs {nbytes} bytes, data_offsets give {offsets[1] - offsets[0]}")
    return TensorEntry(name=name, dtype=dtype, shape=tuple(shape), offset=base + offsets[0], nbytes=nbytes)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value)


def _check_ranges(path: Path, entries: list[TensorEntry], start: int, size: int) -> None:
    """The tensors must cover the data exactly: no overlap, no hole, no missing end."""
    at = start
    for entry in sorted(entries, key=lambda e: (e.offset, e.nbytes)):
        if entry.offset != at:
            what = "overlaps the tensor before it" if entry.offset < at else "leaves a hole before it"
            raise FormatError(f"{path}: tensor {entry.name!r} at byte {entry.offset} {what} (byte {at})")
        at += entry.nbytes
    if at != size:
        what = "truncated" if at > size else "followed by other data"
        raise FormatError(f"{path}: tensors end at byte {at}, the file at {size}: it is {what}; download it again")


# Writing.


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSource:
    """A tensor to be written: its data comes in pieces, so that no checkpoint has to fit into memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[Array]]
    """consecutive pieces of the data in C order, in numpy's type of ``dtype``"""

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return DTYPES[self.dtype].itemsize * math.prod(self.shape)


def as_source(name: str, array: Array) -> TensorSource:
    """A source of an array in memory: float32, float16, or uint16 holding bf16 bits."""
    dtype = {"<f4": "F32", "<f2": "F16", "<u2": "BF16"}[array.dtype.newbyteorder("<").str]
    return TensorSource(name=name, dtype=dtype, shape=array.shape, chunks=lambda: [array])


def write_checkpoint(
    folder: str | os.PathLike[str], tensors: Iterable[TensorSource], *, max_shard_bytes: int = 5_000_000_000
) -> list[Path]:
    """Write ``model.safetensors``, or shards with their index when it would exceed ``max_shard_bytes``.

    Returns the files of tensors. Each file appears under its name when it is complete; on an error none stays.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, max_shard_bytes)
    names = [SINGLE_NAME]
    if len(shards) > 1:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    written: list[Path] = []
    try:
        for name, shard in zip(names, shards, strict=True):
            write_safetensors(target / name, shard)
            written.append(target / name)
        if len(shards) > 1:
            _write_index(target, names, shards)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written


def write_safetensors(path: str | os.PathLike[str], tensors: Iterable[TensorSource]) -> None:
    """Write one file; it appears under its name when it is complete."""
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    sources = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for source in sources:
        header[source.name] = {
            "dtype": source.dtype,
            "shape": list(source.shape),
            "data_offsets": [at, at + source.nbytes],
        }
        at += source.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    try:
        with partial.open("wb") as file:
            file.write(len(encoded).to_bytes(8, "little") + encoded)
            for source in sources:
                for chunk in _checked(source):
                    file.write(chunk)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _checked(source: TensorSource) -> Iterator[memoryview]:
    left = source.nbytes
    for chunk in source.chunks():
        data = np.ascontiguousarray(chunk, DTYPES[source.dtype])
        left -= data.nbytes
        yield data.data.cast("B") if data.size else memoryview(b"")
    if left:
        raise ValueError(f"tensor {source.name!r}: its chunks are {-left} bytes too long")


def _shards(tensors: Iterable[TensorSource], limit: int) -> list[list[TensorSource]]:
    shards: list[list[TensorSource]] = [[]]
    size = 0
    for source in tensors:
        if shards[-1] and size + source.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(source)
        size += source.nbytes
    return shards


def _write_index(folder: Path, names: list[str], shards: list[list[TensorSource]]) -> None:
    total = sum(source.nbytes for shard in shards for source in shard)
    weight_map = {source.name: name for name, shard in zip(names, shards, strict=True) for source in shard}
    index: Mapping[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
