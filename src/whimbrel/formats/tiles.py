"""Tiling: one code per weight ``[R, K]`` to row blocks and back; the layouts themselves are drawn in ``packed``."""

from typing import Any

import numpy as np
import numpy.typing as npt

ROWS_PER_BLOCK = 16
PADDING = {"f32": 0, "f16": 0, "bf16": 0, "q8": 128, "q4": 8}
"""The code of a weight in a row that only fills a block."""

Array = npt.NDArray[Any]


def tile(layout: str, codes: Array, out: Array) -> None:
    """Codes ``[R, K]`` (uint8, or the float layouts' own type) into row blocks; a short last block is padded."""
    _TILE[layout](pad_rows(codes, PADDING[layout]), out)


def tile_words(layout: str, words: npt.NDArray[np.uint32], out: Array) -> None:
    """The same for q4 and q8 codes that are already in the words of the layout: uint32 ``[R, K / 8]`` or ``[R, K / 4]``."""
    fill = PADDING[layout] * (0x11111111 if layout == "q4" else 0x01010101)
    _tile_float(pad_rows(words, fill), out.view(np.uint32)[..., 0])


def tile_scales(scales: Array, out: Array) -> None:
    """Scales or mins ``[R, K / group]``, fp16, into ``[row blocks, K / group, 16]``."""
    _tile_float(pad_rows(scales, 0), out)


def untile(layout: str, codes: Array) -> Array:
    """Row blocks to codes ``[16 * row blocks, K]``, padding included."""
    return _UNTILE[layout](codes)


def untile_scales(scales: Array) -> npt.NDArray[np.float32]:
    """Row blocks of scales or mins to float32 ``[16 * row blocks, K / group]``."""
    return _untile_float(scales).astype(np.float32)


def pad_rows(values: Array, fill: int) -> Array:
    """Contiguous rows, as many as whole row blocks have."""
    missing = -len(values) % ROWS_PER_BLOCK
    if not missing:
        return np.ascontiguousarray(values)
    return np.concatenate([values, np.full((missing, values.shape[1]), fill, values.dtype)])


def _tile_float(codes: Array, out: Array) -> None:
    out[...] = codes.reshape(-1, ROWS_PER_BLOCK, codes.shape[1]).transpose(0, 2, 1)


def _tile_bf16(codes: Array, out: Array) -> None:
    # Pairs travel as one uint32: the transpose moves 4 bytes at a time.
    _tile_float(codes.view(np.uint32), out.view(np.uint32)[..., 0])


def _tile_q8(codes: Array, out: Array) -> None:
    _tile_float(codes.view(np.uint32), out.view(np.uint32)[..., 0])


def _tile_q4(codes: Array, out: Array) -> None:
    quads = codes.view(np.uint32).reshape(len(codes), -1, 2)
    _tile_float(quads[..., 0] | quads[..., 1] << 4, out.view(np.uint32)[..., 0])


def _untile_float(codes: Array) -> Array:
    blocks, k, rows = codes.shape
    return np.ascontiguousarray(codes.transpose(0, 2, 1)).reshape(blocks * rows, k)


def _untile_bf16(codes: Array) -> Array:
    return _untile_float(codes.view(np.uint32)[..., 0]).view(np.uint16)


def _untile_q8(codes: Array) -> Array:
    return _untile_float(codes.view(np.uint32)[..., 0]).view(np.uint8)


def _untile_q4(codes: Array) -> Array:
    words = _untile_float(codes.view(np.uint32)[..., 0])
    low_nibbles = np.uint32(0x0F0F0F0F)
    return np.stack([words & low_nibbles, (words >> 4) & low_nibbles], axis=-1).reshape(len(words), -1).view(np.uint8)


_TILE = {"f32": _tile_float, "f16": _tile_float, "bf16": _tile_bf16, "q8": _tile_q8, "q4": _tile_q4}
_UNTILE = {"f32": _untile_float, "f16": _untile_float, "bf16": _untile_bf16, "q8": _untile_q8, "q4": _untile_q4}
