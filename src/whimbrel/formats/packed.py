"""PackedTensor: one weight matrix in the layout that the kernels read.

A weight ``W`` has shape ``[N, K]``: N outputs, K inputs. Rows are cut into *row blocks* of 16, because
16 fp32 lanes are one AVX-512 register (two AVX2, four NEON); N is padded with zero rows. NB = ceil(N / 16).

| layout | codes                  | scales            | mins              | value of a code                 |
|--------|------------------------|-------------------|-------------------|---------------------------------|
| f32    | float32 [NB, K, 16]    | -                 | -                 | itself                          |
| f16    | float16 [NB, K, 16]    | -                 | -                 | itself                          |
| bf16   | uint16 [NB, K/2, 16, 2]| -                 | -                 | bf16 bits; pairs along K        |
| q8     | uint8 [NB, K/4, 16, 4] | f16 [NB, K/g, 16] | f16 or none       | scale * (code - 128) [+ min]    |
| q4     | uint8 [NB, K/8, 16, 4] | f16 [NB, K/g, 16] | f16 or none       | scale * (code - 8), or          |
|        |                        |                   |                   | scale * code + min with mins    |

One 64-byte line of q4 holds 16 rows x 8 inputs: byte ``b`` of row ``r`` carries input ``8j + b`` in its low
nibble and ``8j + 4 + b`` in its high one. One line of q8 holds 16 rows x 4 inputs. So a row block is one
sequential stream and a line feeds one (q8) or two (q4) 4-way integer dot products.
For q8 with mins the value is ``scale * (code - 128) + min`` all the same.
Groups are 16, 32, 64 or 128 inputs; K is a multiple of the group, and of 32 for q4 and q8.
Row blocks may be strided (``codes.strides[0]`` free, the rest contiguous), so that two matrices can interleave.
Codes, scales and mins start at multiples of 64 bytes. Rows of padding have code 8 (q4), 128 (q8), 0 (else), scale 0.

The numpy code here defines the layouts. Where the native module is there it does the same work, to the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, InvalidParameter
from whimbrel.formats.memory import weight_memory
from whimbrel.formats.rounding import round_groups, to_bf16, to_float32
from whimbrel.formats.tiles import ROWS_PER_BLOCK, tile, tile_scales, tile_words, untile, untile_scales

GROUPS = (16, 32, 64, 128)
LAYOUTS = ("f32", "f16", "bf16", "q8", "q4")
CHUNK_ELEMENTS = 1 << 18
"""Weights converted at a time: 1 MiB of fp32, which stays in the second-level cache."""

Array = npt.NDArray[Any]
Rows = Callable[[int, int], Array]
"""Rows ``[start, stop)`` of a matrix ``[N, K]``: float32, float16, or uint16 holding bf16 bits."""


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A weight matrix ``[N, K]`` in one of the layouts of this module's table. Immutable by convention."""

    layout: str
    shape: tuple[int, int]
    """(N, K) without padding"""
    group: int
    """inputs per scale; 0 for the float layouts"""
    codes: Array
    scales: Array | None = None
    mins: Array | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and mins, padding included."""
        return sum(part.nbytes for part in (self.codes, self.scales, self.mins) if part is not None)

    @cached_property
    def handle(self) -> Any:
        """The kernels' view of this weight (``_native.Weight``); it borrows the arrays, so keep the tensor alive."""
        from whimbrel import _native

        n, k = self.shape
        return _native.Weight(self.layout, n, k, self.group, self.codes, self.scales, self.mins)

    def dequantize(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float32]:
        """Rows ``[start, stop)`` in fp32 (all of them by default): ``float32 [stop - start, K]``.

        This is the definition of the layouts that every kernel is tested against.
        """
        n, k = self.shape
        start, stop, _ = slice(start, stop).indices(n)
        out = np.empty((max(stop - start, 0), k), np.float32)
        native = native_packing()
        if native is not None:
            native.dequantize(self.handle, out, start)
            return out
        step = _chunk_rows(k)
        for first in range(start - start % ROWS_PER_BLOCK, stop, step):
            last = min(first + step, stop)
            blocks = slice(first // ROWS_PER_BLOCK, -(-last // ROWS_PER_BLOCK))
            values = self._values(blocks)
            lo, hi = max(first, start), last
            out[lo - start : hi - start] = values[lo - first : hi - first]
        return out

    def _values(self, blocks: slice) -> npt.NDArray[np.float32]:
        """All rows of the given row blocks, in fp32."""
        codes = untile(self.layout, self.codes[blocks])
        if self.scales is None:
            return to_float32(codes)
        grouped = codes.astype(np.float32).reshape(len(codes), -1, self.group)
        if self.layout == "q8":
            grouped -= np.float32(128)
        elif self.mins is None:
            grouped -= np.float32(8)
        grouped *= untile_scales(self.scales[blocks])[..., None]
        if self.mins is not None:
            grouped += untile_scales(self.mins[blocks])[..., None]
        return grouped.reshape(codes.shape)


@cache
def native_packing() -> Any | None:
    """The native module, or None where it is not built: numpy is complete, and five to ten times slower."""
    try:
        from whimbrel import _native
    except ImportError:
        return None
    return _native


def empty(layout: str, shape: tuple[int, int], group: int = 0, *, mins: bool = False) -> PackedTensor:
    """A packed tensor with uninitialised memory, to be filled by a reader.

    Raises ``InvalidParameter`` for an impossible combination of layout, shape and group.
    """
    return _empty(layout, shape, group, mins, copies=1)[0]


def empty_interleaved(
    layout: str, shape: tuple[int, int], group: int = 0, *, mins: bool = False
) -> tuple[PackedTensor, PackedTensor]:
    """Two uninitialised tensors whose row blocks alternate in one buffer, for gate and up.

    A kernel that computes ``silu(gate) * up`` for 16 outputs then reads one sequential stream. Codes, scales and mins
    each interleave: both tensors are views with twice the stride between row blocks.
    """
    first, second = _empty(layout, shape, group, mins, copies=2)
    return first, second


def pack(dense: Array, layout: str, group: int = 0, *, mins: bool = False) -> PackedTensor:
    """Pack a dense matrix ``[N, K]`` (float32, float16, or uint16 holding bf16 bits), rounding to nearest.

    q8 maps the largest magnitude of a group to 127 steps. q4 maps the largest magnitude to -8 steps (or, with
    ``mins``, the smallest value to 0 and the largest to 15). Codes are chosen with the scale as it is stored, in fp16.
    Raises ``InvalidParameter`` for an impossible layout, ``FormatError`` for weights that fp16 scales can't hold.
    """
    if dense.ndim != 2:
        raise InvalidParameter(f"pack: a weight has two dimensions, this one has shape {dense.shape}")
    return pack_rows(lambda start, stop: dense[start:stop], empty(layout, dense.shape, group, mins=mins))


def pack_rows(rows: Rows, out: PackedTensor) -> PackedTensor:
    """Fill ``out`` from a function that yields dense rows; at most 1 MiB is in fp32 at a time. Returns ``out``."""
    for first, last, blocks in row_chunks(out.shape):
        encode(rows(first, last), out, blocks)
    return out


def row_chunks(shape: tuple[int, int]) -> list[tuple[int, int, slice]]:
    """Cut ``[N, K]`` into runs of whole row blocks: (first row, last row + 1, slice of row blocks) of each."""
    n, k = shape
    step = _chunk_rows(k)
    spans = [(first, min(first + step, n)) for first in range(0, n, step)]
    return [(first, last, slice(first // ROWS_PER_BLOCK, -(-last // ROWS_PER_BLOCK))) for first, last in spans]


def encode(dense: Array, out: PackedTensor, blocks: slice) -> None:
    """Round dense rows (the last row block may be short) into the given row blocks of ``out``."""
    native = native_packing()
    if native is not None:
        with native_errors():
            native.pack_dense(np.ascontiguousarray(dense), out.handle, blocks.start * ROWS_PER_BLOCK)
    elif out.layout == "bf16":
        store_codes(dense if dense.dtype == np.uint16 else to_bf16(to_float32(dense)), out, blocks)
    elif out.layout == "f16":
        store_codes(to_float32(dense).astype(np.float16) if dense.dtype != np.float16 else dense, out, blocks)
    elif out.layout == "f32":
        store_codes(to_float32(dense), out, blocks)
    else:
        values = to_float32(dense)
        groups = values.reshape(len(values), -1, out.group)
        codes, scales, mins = round_groups(groups, out.layout, mins=out.mins is not None)
        store_codes(codes.reshape(values.shape), out, blocks)
        store_scales(scales, mins, out, blocks)


@contextmanager
def native_errors() -> Iterator[None]:
    """What the native code refuses as a value is a fault of the file: its shapes are checked before."""
    try:
        yield
    except ValueError as error:
        raise FormatError(str(error)) from None


def store_codes(codes: Array, out: PackedTensor, blocks: slice) -> None:
    """Tile codes ``[R, K]`` (one per weight: uint8, or the float layouts' own type) into row blocks of ``out``."""
    tile(out.layout, codes, out.codes[blocks])


def store_words(words: npt.NDArray[np.uint32], out: PackedTensor, blocks: slice) -> None:
    """Tile q4 or q8 codes that are already in the words of the layout: ``uint32 [R, K / 8]`` or ``[R, K / 4]``."""
    tile_words(out.layout, words, out.codes[blocks])


def store_scales(scales: Array, mins: Array | None, out: PackedTensor, blocks: slice) -> None:
    """Tile scales and mins ``[R, K / group]`` into row blocks of ``out``.

    Raises ``FormatError`` when one of them is not finite in fp16.
    """
    for source, target in ((scales, out.scales), (mins, out.mins)):
        if source is None or target is None:
            continue
        with np.errstate(over="ignore"):
            half = source.astype(np.float16, copy=False)
        if not np.isfinite(half).all():
            raise FormatError(
                "a group of weights is not finite or exceeds what an fp16 scale can hold (65504 steps); "
                "load this tensor as f32 or bf16"
            )
        tile_scales(half, target[blocks])


def _chunk_rows(k: int) -> int:
    return max(CHUNK_ELEMENTS // max(k, 1) // ROWS_PER_BLOCK, 1) * ROWS_PER_BLOCK


def _empty(layout: str, shape: tuple[int, int], group: int, mins: bool, copies: int) -> list[PackedTensor]:
    _check(layout, shape, group, mins)
    n, k = shape
    blocks = -(-n // ROWS_PER_BLOCK)
    tail, dtype = {
        "f32": ((k, ROWS_PER_BLOCK), np.float32),
        "f16": ((k, ROWS_PER_BLOCK), np.float16),
        "bf16": ((k // 2, ROWS_PER_BLOCK, 2), np.uint16),
        "q8": ((k // 4, ROWS_PER_BLOCK, 4), np.uint8),
        "q4": ((k // 8, ROWS_PER_BLOCK, 4), np.uint8),
    }[layout]
    codes = weight_memory((blocks, copies, *tail), dtype)
    quantized = layout in ("q4", "q8")
    scale_shape = (blocks, copies, k // group if quantized else 0, ROWS_PER_BLOCK)
    scales = weight_memory(scale_shape, np.float16) if quantized else None
    bounds = weight_memory(scale_shape, np.float16) if mins else None

    def view(whole: Array | None, i: int) -> Array | None:
        return None if whole is None else whole[:, i]

    return [
        PackedTensor(layout, (n, k), group if quantized else 0, codes[:, i], view(scales, i), view(bounds, i))
        for i in range(copies)
    ]


def _check(layout: str, shape: tuple[int, int], group: int, mins: bool) -> None:
    n, k = shape
    if layout not in LAYOUTS:
        raise InvalidParameter(f"layout {layout!r} does not exist; choose one of {', '.join(LAYOUTS)}")
    if n < 1 or k < 1:
        raise InvalidParameter(f"a weight needs at least one row and one column, shape {shape} has none")
    if layout == "bf16" and k % 2:
        raise InvalidParameter(f"layout bf16 stores inputs in pairs, K = {k} is odd; use f32")
    if layout not in ("q4", "q8"):
        if mins:
            raise InvalidParameter(f"layout {layout} has no mins")
        return
    if group not in GROUPS:
        raise InvalidParameter(f"layout {layout} has groups of {', '.join(map(str, GROUPS))} inputs, not {group}")
    if k % 32 or k % group:
        raise InvalidParameter(
            f"layout {layout} with group {group} needs K to be a multiple of both 32 and {group}: {k}"
        )
