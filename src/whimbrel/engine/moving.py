"""moved: a document's blocks at other positions: their keys turned, their values as they are.

The rotary embedding turns the key of position p by p times each frequency, so a key moves by d positions when it is
turned by d times each frequency more. Semantic kernels are averages of keys and turn with them, unless they are averages
of unturned keys (``use_nope``). All are rounded again to what the file stores: bf16, or 8 bits and a scale. It takes
about 5 s of one core for each GB; 32K tokens of MiniCPM4-0.5B are 0.4 GB.

Layouts are those of native/kernels.h. N heads of blocks, D head_dim, h = D/2: dimension ``2i + j`` lies at ``[i, j]``,
and is turned with its partner ``2i + j + h`` at ``[i + D/4, j]``.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.formats.kv_layout import GROUP, KERNELS, Bytes, KVLayout
from whimbrel.formats.rounding import to_bf16, to_float32
from whimbrel.models.rope import RopeTable

Floats = npt.NDArray[np.float32]
STRIDE = 16
"""Tokens between semantic kernels; two strides are one kernel."""
STEP = 2
"""Blocks turned at a time: their keys in fp32 are 1.5 MB for 24 layers of 2 heads of 64."""


class Mover:
    """Moves blocks of one kind of cache by ``offset`` tokens, a multiple of 64."""

    def __init__(self, rope: RopeTable, offset: int, *, head_dim: int, quantized: bool, use_nope: bool) -> None:
        """``quantized``: keys are 8 bits and a scale each. ``use_nope``: semantic kernels average unturned keys."""
        self._rope = rope
        self._offset = offset
        self._dim = head_dim
        self._quantized = quantized
        self._use_nope = use_nope
        amplitude = rope.cos[0, 0]  # position 0 turns nothing; what is left is LongRoPE's and YaRN's factor
        self._cos, self._sin = rope.cos[offset] / amplitude, rope.sin[offset] / amplitude

    def move(
        self, data: Bytes, codes: Bytes, scales: Bytes, layout: KVLayout, last: Bytes
    ) -> tuple[Bytes, Bytes, Bytes]:
        """The parts of a file, ``offset`` tokens later, in memory.

        ``last`` [block_bytes] is the block that comes before the first one, where it lies: a semantic kernel spans both.
        """
        moved = data.copy()
        heads = moved.reshape(-1, self._head_bytes)
        step = STEP * layout.block_bytes // self._head_bytes
        for start in range(0, len(heads), step):
            self._turn_heads(heads[start : start + step])
        new_codes, new_scales = codes.copy(), scales.copy()
        if layout.kernel_dim:
            if not self._use_nope:
                self._turn_kernels(layout.codes_view(new_codes), layout.scales_view(new_scales))
            self._span(moved[: layout.block_bytes], last, layout.kernels_of(new_codes, new_scales, 0))
        return moved, new_codes, new_scales

    @property
    def _head_bytes(self) -> int:
        half = self._dim * BLOCK_SIZE
        return 2 * half + 8 * BLOCK_SIZE if self._quantized else 4 * half

    def _turn_heads(self, heads: Bytes) -> None:
        """Turn the keys of heads [N, head_bytes] where they lie."""
        keys = self._keys(heads)
        turned = turn(keys, self._cos.reshape(-1, 1, 2), self._sin.reshape(-1, 1, 2))
        size = self._dim * BLOCK_SIZE
        if not self._quantized:
            heads[:, : 2 * size].view(np.uint16)[:] = to_bf16(turned).reshape(len(heads), -1)
            return
        top = np.abs(turned).max(axis=(1, 3))
        inverse = np.divide(127, top, out=np.zeros_like(top), where=top > 0)
        heads[:, :size].view(np.int8)[:] = np.rint(turned * inverse[:, None, :, None]).reshape(len(heads), -1)
        heads[:, 2 * size :].view(np.float32)[:, :BLOCK_SIZE] = top / 127

    def _keys(self, heads: Bytes) -> Floats:
        """[N, head_bytes] to keys [N, D/2, 64, 2]."""
        size = self._dim * BLOCK_SIZE
        shape = (len(heads), self._dim // 2, BLOCK_SIZE, 2)
        if not self._quantized:
            return to_float32(heads[:, : 2 * size].view(np.uint16)).reshape(shape)
        scales = heads[:, 2 * size :].view(np.float32)[:, :BLOCK_SIZE]
        return heads[:, :size].view(np.int8).astype(np.float32).reshape(shape) * scales[:, None, :, None]

    def _turn_kernels(self, codes: Bytes, scales: Floats) -> None:
        """Turn all semantic kernels, [R, groups, K/4, 4, 16] and [R, groups, 4, 4], where they lie."""
        quarter = self._dim // 4
        own = codes.reshape(*codes.shape[:3], GROUP * KERNELS, 4)[:, :, :quarter]
        factors = scales.reshape(*scales.shape[:2], 1, GROUP * KERNELS, 1)
        values = (own.astype(np.float32) - 128) * factors
        shape = (quarter // 2, 1, 4)
        turned = turn(values, self._cos.reshape(shape), self._sin.reshape(shape))
        own[:], found = rounded(turned, axes=(2, 4))
        factors[:] = found

    def _span(self, first: Bytes, last: Bytes, kernels: tuple[Bytes, Floats]) -> None:
        """Average the last 16 keys before the border and the first 16 behind it, into slot 0 of the first block."""
        before = self._keys(last.reshape(-1, self._head_bytes))[:, :, -STRIDE:]
        behind = self._keys(first.reshape(-1, self._head_bytes))[:, :, :STRIDE]
        keys = np.concatenate([before, behind], axis=2)
        if self._use_nope:
            rows = slice(self._offset - STRIDE, self._offset + STRIDE)
            cos, sin = self._rope.cos[rows], self._rope.sin[rows]
            power = cos * cos + sin * sin
            keys = turn(keys, self._by_token(cos / power), self._by_token(-sin / power))
        mean = keys.mean(axis=2, dtype=np.float32).reshape(len(keys), self._dim // 4, 1, 4)
        codes, scales = kernels
        values, found = rounded(mean, axes=(1, 3))
        codes[:, : self._dim // 4, :4] = values[:, :, 0]
        scales[:, 0] = found[:, 0, 0, 0]

    def _by_token(self, angles: npt.NDArray[Any]) -> Floats:
        """[tokens, D/2] in the order of keys: [D/4, tokens, 2]."""
        return angles.reshape(len(angles), -1, 2).swapaxes(0, 1)


def turn(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Rotate pairs of halves along the axis of ``cos``'s first: (a, b) -> (a cos - b sin, b cos + a sin)."""
    axis = x.ndim - cos.ndim
    a, b = np.split(x, 2, axis=axis)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=axis)


def rounded(values: Floats, axes: tuple[int, int]) -> tuple[Bytes, Floats]:
    """Codes + 128 and scales (``axes`` kept) as the native kernels store semantic kernels."""
    top = np.abs(values).max(axis=axes, keepdims=True)
    inverse = np.divide(127, top, out=np.zeros_like(top), where=top > 0)
    return (np.rint(values * inverse) + 128).astype(np.uint8), top / 127
