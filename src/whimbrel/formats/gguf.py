"""GGUF: one file with metadata, a tokenizer and tensors. A reader over a memory map.

The file: a head (``gguf_header``), padding to the alignment, the tensors' data. Everything is little-endian. Versions
2 and 3 are read; they differ in nothing that little-endian readers see.

The reader trusts nothing: every count is checked against the bytes that are left before memory is asked for, so a
damaged file gives a ``FormatError`` with file, place and reason. Opening reads the header only. Strings of long
arrays (a vocabulary) are found in one pass and decoded when they are first used.
"""

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, ModelNotFound
from whimbrel.formats import ggml_types
from whimbrel.formats.gguf_header import Header, TensorInfo
from whimbrel.formats.packed import PackedTensor, empty


class GGUFFile:
    """An open GGUF file: ``metadata`` (key -> value), ``tensors`` (name -> TensorInfo), and their data.

    Values of metadata are int, float, bool, str, numpy arrays (arrays of numbers), ``StringArray``, or lists of those.
    Raises ``ModelNotFound`` when there is no such file, ``FormatError`` when it is not a sound GGUF file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._map = _map_file(self.path)
        header = Header(self.path, self._map)
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
        interleaving). The tensor's pages of the file are given back to the system afterwards.
        """
        info = self.tensors[name]
        if len(info.shape) != 2:
            raise self._error(f"tensor {name!r}", f"a matrix was expected, its shape is {info.shape}")
        kind, (n, k) = info.type, info.shape
        if not kind.layout:
            ggml_types.floats(kind, np.empty((0, 0), np.uint8))
        if out is None:
            out = empty(kind.layout, (n, k), kind.group, mins=kind.mins)
        ggml_types.repack(kind, self.rows(name), out, row_order)
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
