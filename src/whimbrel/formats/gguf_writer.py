"""Writing GGUF version 3: metadata and tensors into one file, complete or not at all."""

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError
from whimbrel.formats.ggml_types import BY_NAME
from whimbrel.formats.gguf_header import ARRAY, BOOL, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING

_U32, _I32, _F32, _U64, _I64 = 4, 5, 6, 10, 11


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
        kind = next(k for k, (_, dtype) in SCALARS.items() if np.dtype(dtype) == value.dtype and k != BOOL)
        return struct.pack("<IIQ", ARRAY, kind, value.size) + value.tobytes()
    if isinstance(value, Sequence) and not isinstance(value, str):
        kind = _array_kind(value)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(_bare(kind, item) for item in value)
    kind = _kind(value)
    return struct.pack("<I", kind) + _bare(kind, value)


def _array_kind(values: Sequence[Any]) -> int:
    """One type for all: i32 where ints fit, since readers expect it for token types; else the widest needed."""
    kinds = {_kind(value) for value in values}
    whole = {_U32, _I32, _U64, _I64}
    if _F32 in kinds and kinds <= whole | {_F32}:
        return _F32
    if kinds and kinds <= whole:
        return _I32 if kinds <= {_U32, _I32} and max(values) < 1 << 31 else _I64
    if len(kinds) > 1:
        raise FormatError(f"can't write a list of different types to GGUF metadata: {values!r:.60}")
    return kinds.pop() if kinds else STRING


def _kind(value: Any) -> int:
    if isinstance(value, str):
        return STRING
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, float):
        return _F32
    if isinstance(value, int):
        if -(1 << 31) <= value < 1 << 32:
            return _I32 if value < 0 else _U32
        return _I64 if value < 0 else _U64
    raise FormatError(f"can't write a {type(value).__name__} to GGUF metadata: {value!r}")


def _bare(kind: int, value: Any) -> bytes:
    return _text(value) if kind == STRING else struct.pack(SCALARS[kind][0], value)
