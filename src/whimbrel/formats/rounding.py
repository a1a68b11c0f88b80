"""Rounding to nearest: fp32 to bf16, and groups of weights to codes, scales and mins.

q8 maps the largest magnitude of a group to 127 steps; q4 maps it to -8 steps, so that it is exact, as ggml's Q4_0
does; with mins the smallest value of a group is code 0 and the largest 15 (q4), or the middle is 0 and the ends are
127 steps away (q8). Codes are chosen with the scale as it is stored, in fp16.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Groups = npt.NDArray[np.float32]
"""[R, K / group, group]"""


def to_float32(values: Array) -> npt.NDArray[np.float32]:
    """float32, float16 or bf16 bits (uint16) to float32; exact."""
    if values.dtype == np.uint16:
        wide = values.astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    return values.astype(np.float32, copy=False)


def to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """float32 to bf16 bits, round to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = ((bits[nan] >> 16) | 0x40).astype(np.uint16)
    return rounded


def round_groups(values: Groups, layout: str, *, mins: bool) -> tuple[Array, Array, Array | None]:
    """Codes uint8 of the same shape, scales and (for ``mins``) minima ``[R, K / group]``; not finite where they can't be."""
    # Overflow, NaN and division by a scale of 0 are settled by _codes, and by whoever stores the scales.
    with np.errstate(all="ignore"):
        return _ROUND[layout, mins](values)


def _round_q4(values: Groups) -> tuple[Array, Array, Array | None]:
    extreme = np.take_along_axis(values, np.abs(values).argmax(-1, keepdims=True), -1)
    scales = _half(extreme / -8)
    return _codes(values, scales, 8, 0, 15), scales[..., 0], None


def _round_q4_mins(values: Groups) -> tuple[Array, Array, Array | None]:
    mins = _half(values.min(-1, keepdims=True))
    scales = _half((values.max(-1, keepdims=True) - mins) / 15)
    return _codes(values - mins, scales, 0, 0, 15), scales[..., 0], mins[..., 0]


def _round_q8(values: Groups) -> tuple[Array, Array, Array | None]:
    scales = _half(np.abs(values).max(-1, keepdims=True) / 127)
    return _codes(values, scales, 128, 1, 255), scales[..., 0], None


def _round_q8_mins(values: Groups) -> tuple[Array, Array, Array | None]:
    low, high = values.min(-1, keepdims=True), values.max(-1, keepdims=True)
    mins = _half(low / 2 + high / 2)
    scales = _half(np.maximum(high - mins, mins - low) / 127)
    return _codes(values - mins, scales, 128, 1, 255), scales[..., 0], mins[..., 0]


def _half(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The nearest fp16 values, as float32."""
    return values.astype(np.float16).astype(np.float32)


def _codes(values: Array, scales: Array, zero: int, low: int, high: int) -> npt.NDArray[np.uint8]:
    steps = np.where(scales == 0, np.float32(0), values / scales)
    np.nan_to_num(steps, copy=False)
    codes: npt.NDArray[np.uint8] = np.clip(np.rint(steps) + zero, low, high).astype(np.uint8)
    return codes


_ROUND = {
    ("q4", False): _round_q4,
    ("q4", True): _round_q4_mins,
    ("q8", False): _round_q8,
    ("q8", True): _round_q8_mins,
}
