"""The tensor types of GGUF files: how many bytes, what values, and how they become one of our layouts.

A row of K weights is stored as K / block consecutive blocks; a block holds its codes and its scales. ``split`` takes
the bytes of some rows apart into one code per weight, scales and mins; from there ``dequantize`` gives the values
in fp32 (the oracle) and ``repack`` writes the kernels' tiles. The block formats are those of ggml
(``ggml-common.h`` of llama.cpp); "super-blocks" of 256 weights carry 6-bit or 8-bit scales under one fp16 scale.

| type  | weights | bytes | becomes           | exact?                                                    |
|-------|---------|-------|-------------------|-----------------------------------------------------------|
| F32, F16, BF16 |  |      | f32, f16, bf16    | yes                                                       |
| Q4_0  | 32      | 18    | q4 group 32       | yes                                                       |
| Q4_1  | 32      | 20    | q4 group 32, mins | yes                                                       |
| Q5_0  | 32      | 22    | q8 group 32       | yes                                                       |
| Q5_1  | 32      | 24    | q8 group 32, mins | yes                                                       |
| Q8_0  | 32      | 34    | q8 group 32       | yes                                                       |
| Q4_K  | 256     | 144   | q4 group 32, mins | codes are; products of two scales are rounded to fp16     |
| Q5_K  | 256     | 176   | q8 group 32, mins | the same                                                  |
| Q6_K  | 256     | 210   | q8 group 16       | the same                                                  |
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import UnsupportedModel
from whimbrel.formats.packed import (
    PackedTensor,
    encode,
    native_errors,
    native_packing,
    row_chunks,
    store_codes,
    store_scales,
    store_words,
)
from whimbrel.formats.rounding import to_float32

Bytes = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """Some rows taken apart. The value of weight ``i`` is ``scale * (code - zero) [+ min]``, of its group each."""

    codes: Bytes
    """[R, K] uint8"""
    zero: int
    scales: npt.NDArray[np.float32]
    """[R, K / group]"""
    mins: npt.NDArray[np.float32] | None = None
    """[R, K / group]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorType:
    """One tensor type. ``layout`` is empty where we know the size but can't read the values."""

    id: int
    name: str
    block: int
    """weights per block"""
    size: int
    """bytes per block"""
    layout: str = ""
    group: int = 0
    mins: bool = False
    split: Callable[[Bytes], Parts] | None = None
    """blocks ``uint8 [R, K / block, size]`` -> parts; None for the float types"""


def dequantize(kind: TensorType, raw: Bytes) -> npt.NDArray[np.float32]:
    """Rows of bytes ``uint8 [R, row bytes]`` to values ``float32 [R, K]``; raises ``UnsupportedModel``."""
    if kind.split is None:
        return to_float32(floats(kind, raw))
    parts = kind.split(_blocks(kind, raw))
    values = parts.codes.astype(np.float32).reshape(len(raw), -1, kind.group)
    values -= np.float32(parts.zero)
    values *= parts.scales[..., None]
    if parts.mins is not None:
        values += parts.mins[..., None]
    return values.reshape(parts.codes.shape)


def floats(kind: TensorType, raw: Bytes) -> Array:
    """The rows of a float type as they are: float32, float16, or uint16 with bf16 bits."""
    if not kind.layout:
        known = ", ".join(t.name for t in TYPES.values() if t.layout)
        raise UnsupportedModel(f"tensor type {kind.name} is not supported; this build reads {known}")
    return np.ascontiguousarray(raw).view({"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[kind.name])


def repack(kind: TensorType, raw: Bytes, out: PackedTensor, row_order: npt.NDArray[np.intp] | None = None) -> None:
    """Move a tensor's rows of bytes ``uint8 [N, row bytes]`` into ``out``, row ``row_order[i]`` to row ``i``.

    ``out`` has the layout, group and mins that ``kind`` names. One native call for the whole tensor: its threads meet
    once, not once per chunk (SmolLM2-135M: 69 ms of one core instead of 87).
    """
    native = native_packing()
    if native is not None and kind.layout:
        with native_errors():
            native.repack_gguf(kind.name, raw, out.handle, row_order)
        return
    for first, last, blocks in row_chunks(out.shape):
        _repack_rows(kind, raw[first:last] if row_order is None else raw[row_order[first:last]], out, blocks)


def _repack_rows(kind: TensorType, raw: Bytes, out: PackedTensor, blocks: slice) -> None:
    if kind.split is None:
        encode(floats(kind, raw), out, blocks)
        return
    fast = _WORDS.get(kind.name)
    if fast is not None:
        words, scales, mins = fast(_blocks(kind, raw))
        store_words(words, out, blocks)
    else:
        parts = kind.split(_blocks(kind, raw))
        # The zero of q8 tiles is 128, of q4 tiles 8 or (with mins) 0.
        shift = {"q8": 128, "q4": 0 if kind.mins else 8}[kind.layout] - parts.zero
        store_codes(parts.codes + np.uint8(shift) if shift else parts.codes, out, blocks)
        scales, mins = parts.scales, parts.mins
    store_scales(scales, mins, out, blocks)


def _blocks(kind: TensorType, raw: Bytes) -> Bytes:
    return np.ascontiguousarray(raw).reshape(len(raw), -1, kind.size)


def _half(blocks: Bytes, offset: int) -> npt.NDArray[np.float16]:
    """The fp16 number at a byte offset of every block: ``[R, blocks]``."""
    return np.ascontiguousarray(blocks[..., offset : offset + 2]).view("<f2")[..., 0]


def _nibbles(packed: Bytes) -> Bytes:
    """``[..., 16]`` bytes -> ``[..., 32]`` codes: the low nibbles are the first half, the high ones the second."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _rows(codes: Array) -> Array:
    return codes.reshape(len(codes), -1)


# 32 weights per block.


def _split_q4_0(blocks: Bytes) -> Parts:
    return Parts(_rows(_nibbles(blocks[..., 2:])), 8, _half(blocks, 0).astype(np.float32))


def _split_q4_1(blocks: Bytes) -> Parts:
    scales, mins = _half(blocks, 0), _half(blocks, 2)
    return Parts(_rows(_nibbles(blocks[..., 4:])), 0, scales.astype(np.float32), mins.astype(np.float32))


def _split_q5_0(blocks: Bytes) -> Parts:
    codes = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return Parts(_rows(codes), 16, _half(blocks, 0).astype(np.float32))


def _split_q5_1(blocks: Bytes) -> Parts:
    codes = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    return Parts(_rows(codes), 0, _half(blocks, 0).astype(np.float32), _half(blocks, 2).astype(np.float32))


def _fifth_bits(packed: Bytes) -> Bytes:
    """``[..., 4]`` bytes -> ``[..., 32]``: bit i of the little-endian word, moved to bit 4."""
    return np.unpackbits(packed, axis=-1, bitorder="little") << np.uint8(4)


def _split_q8_0(blocks: Bytes) -> Parts:
    return Parts(_rows(blocks[..., 2:] ^ 0x80), 128, _half(blocks, 0).astype(np.float32))


# 256 weights per super-block.


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """12 bytes hold eight 6-bit scales and eight 6-bit mins: ``[..., 12] -> [..., 8], [..., 8]``.

    Bytes 0..3 carry scales 0..3 and the top bits of scales 4..7, bytes 4..7 the same of the mins,
    bytes 8..11 the low nibbles of scales 4..7 and, above them, of mins 4..7.
    """
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=-1)
    mins = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1)
    return scales, mins


def _scaled(blocks: Bytes, offset: int, scales: Array) -> npt.NDArray[np.float32]:
    """fp16 super-scale times integer scales ``[R, B, s] -> [R, B * s]``."""
    return _rows(_half(blocks, offset).astype(np.float32)[..., None] * scales.astype(np.float32))


def _pairs_of_nibbles(packed: Bytes) -> Bytes:
    """``[..., 128]`` bytes -> ``[..., 256]`` codes: each 32 bytes hold 64 weights, low nibbles first."""
    quarters = packed.reshape(*packed.shape[:-1], 4, 32)
    return np.stack([quarters & 15, quarters >> 4], axis=-2).reshape(*packed.shape[:-1], 256)


def _split_q4_k(blocks: Bytes) -> Parts:
    scales, mins = _six_bit_scales(blocks[..., 4:16])
    codes = _pairs_of_nibbles(blocks[..., 16:])
    return Parts(_rows(codes), 0, _scaled(blocks, 0, scales), -_scaled(blocks, 2, mins))


def _split_q5_k(blocks: Bytes) -> Parts:
    scales, mins = _six_bit_scales(blocks[..., 4:16])
    # Bit s of byte i is the fifth bit of weight i of sub-block s.
    bits = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = _pairs_of_nibbles(blocks[..., 48:]) | (bits << 4).reshape(*blocks.shape[:-1], 256)
    return Parts(_rows(codes), 0, _scaled(blocks, 0, scales), -_scaled(blocks, 2, mins))


def _split_q6_k(blocks: Bytes) -> Parts:
    lead = blocks.shape[:-1]
    # Two halves of 128 weights: 64 bytes of low nibbles and 32 bytes of four 2-bit tops each.
    low = blocks[..., :128].reshape(*lead, 2, 64)
    nibbles = np.concatenate([low & 15, low >> 4], axis=-1).reshape(*lead, 2, 4, 32)
    tops = blocks[..., 128:192].reshape(*lead, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    codes = (nibbles | tops << 4).reshape(*lead, 256)
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    return Parts(_rows(codes), 32, _scaled(blocks, 208, scales))


# Shortcuts for the two commonest types: eight nibbles at a time, straight into the words of the q4 tiles.

_LOW = np.uint32(0x0F0F0F0F)
_HIGH = np.uint32(0xF0F0F0F0)


def _words_q4(codes: Bytes) -> Array:
    """``[R, B, 16]`` bytes of nibbles -> words ``uint32 [R, 4 B]`` of our q4 layout.

    A ggml block pairs weight i with i + 16 in one byte, our line pairs input i with i + 4.
    """
    source = np.ascontiguousarray(codes).view("<u4")
    a, b, c, d = (source[..., i] for i in range(4))
    words = np.empty(source.shape, np.uint32)
    words[..., 0] = (a & _LOW) | (b & _LOW) << 4
    words[..., 1] = (c & _LOW) | (d & _LOW) << 4
    words[..., 2] = (a >> 4 & _LOW) | (b & _HIGH)
    words[..., 3] = (c >> 4 & _LOW) | (d & _HIGH)
    return _rows(words)


def _words_q4_0(blocks: Bytes) -> tuple[Array, Array, Array | None]:
    return _words_q4(blocks[..., 2:]), _half(blocks, 0), None


def _words_q4_1(blocks: Bytes) -> tuple[Array, Array, Array | None]:
    return _words_q4(blocks[..., 4:]), _half(blocks, 0), _half(blocks, 2)


def _words_q8_0(blocks: Bytes) -> tuple[Array, Array, Array | None]:
    words = np.ascontiguousarray(blocks[..., 2:]).view(np.uint32)
    words ^= np.uint32(0x80808080)
    return _rows(words), _half(blocks, 0), None


_WORDS = {"Q4_0": _words_q4_0, "Q4_1": _words_q4_1, "Q8_0": _words_q8_0}

_READABLE = (
    TensorType(id=0, name="F32", block=1, size=4, layout="f32"),
    TensorType(id=1, name="F16", block=1, size=2, layout="f16"),
    TensorType(id=30, name="BF16", block=1, size=2, layout="bf16"),
    TensorType(id=2, name="Q4_0", block=32, size=18, layout="q4", group=32, split=_split_q4_0),
    TensorType(id=3, name="Q4_1", block=32, size=20, layout="q4", group=32, mins=True, split=_split_q4_1),
    TensorType(id=6, name="Q5_0", block=32, size=22, layout="q8", group=32, split=_split_q5_0),
    TensorType(id=7, name="Q5_1", block=32, size=24, layout="q8", group=32, mins=True, split=_split_q5_1),
    TensorType(id=8, name="Q8_0", block=32, size=34, layout="q8", group=32, split=_split_q8_0),
    TensorType(id=12, name="Q4_K", block=256, size=144, layout="q4", group=32, mins=True, split=_split_q4_k),
    TensorType(id=13, name="Q5_K", block=256, size=176, layout="q8", group=32, mins=True, split=_split_q5_k),
    TensorType(id=14, name="Q6_K", block=256, size=210, layout="q8", group=16, split=_split_q6_k),
)
_SIZE_ONLY = (
    ("Q8_1", 9, 32, 36), ("Q2_K", 10, 256, 84), ("Q3_K", 11, 256, 110), ("Q8_K", 15, 256, 292),
    ("IQ2_XXS", 16, 256, 66), ("IQ2_XS", 17, 256, 74), ("IQ3_XXS", 18, 256, 98), ("IQ1_S", 19, 256, 50),
    ("IQ4_NL", 20, 32, 18), ("IQ3_S", 21, 256, 110), ("IQ2_S", 22, 256, 82), ("IQ4_XS", 23, 256, 136),
    ("I8", 24, 1, 1), ("I16", 25, 1, 2), ("I32", 26, 1, 4), ("I64", 27, 1, 8), ("F64", 28, 1, 8),
    ("IQ1_M", 29, 256, 56), ("TQ1_0", 34, 256, 54), ("TQ2_0", 35, 256, 66), ("MXFP4", 39, 32, 17),
)  # fmt: skip

TYPES: dict[int, TensorType] = {t.id: t for t in _READABLE} | {
    id: TensorType(id=id, name=name, block=block, size=size) for name, id, block, size in _SIZE_ONLY
}
"""Every tensor type by its number in the file."""
BY_NAME: dict[str, TensorType] = {t.name: t for t in TYPES.values()}
