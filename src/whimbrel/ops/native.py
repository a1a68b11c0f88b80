"""What the native wrappers share: the phrases that say why they can't serve an argument.

The wrappers themselves check nothing: they run two hundred times per token, and the C++ side checks shapes and dtypes.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_SIZE = 64
"""Tokens per block of the cache, as ``native/kernels.h`` has it."""

ALIGNED_ROWS = 8
"""Rows from which an output is worth aligning: a microsecond once per op."""


def empty(*shape: int) -> npt.NDArray[np.float32]:
    """An uninitialised fp32 array; one of many rows starts on a cache line.

    numpy aligns to 16 bytes. Then every 64-byte store of a kernel touches two lines, and neighbouring tasks on two
    threads write to the same ones: reading a prompt of 2,048 tokens took a sixth longer.
    """
    if shape[0] < ALIGNED_ROWS:
        return np.empty(shape, np.float32)
    raw = np.empty(math.prod(shape) + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + raw.size - 16].reshape(shape)


def needs_float32(*arrays: Any) -> str | None:
    """None if all are C-contiguous float32 numpy arrays, else what was found."""
    for array in arrays:
        if not isinstance(array, np.ndarray):
            return f"native works on numpy arrays, got {type(array).__module__}.{type(array).__name__}"
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            return f"native needs contiguous float32, got {array.dtype} with strides {array.strides}"
    return None


def needs_packed(*weights: Any) -> str | None:
    """None if all are ``PackedTensor``s, else what was found."""
    for weight in weights:
        if not hasattr(weight, "handle"):
            return f"native needs packed weights, got {type(weight).__module__}.{type(weight).__name__}"
    return None


def needs_pool(cache: Any) -> str | None:
    """None if the cache has blocks that native code can reach, else what was found."""
    return None if cache.pool is not None else f"native needs a cache with a native pool, got {type(cache).__name__}"


def needs_published_kernels(sparse: Any) -> str | None:
    """None if the semantic kernels are those that native code is written for, else what was asked."""
    sizes = (sparse.kernel_size, sparse.kernel_stride, sparse.block_size)
    if sparse.estimator != "kernels":
        return f"native scores blocks by semantic kernels, not by {sparse.estimator}"
    if sizes == (32, 16, BLOCK_SIZE):
        return None
    return f"native has kernels of 32 tokens, 16 apart, in blocks of {BLOCK_SIZE}; asked for {sizes}"


def upright(q: npt.NDArray[np.float32], inputs: Any, rope: Any) -> npt.NDArray[np.float32]:
    """Queries [T, H, D] before their rotation, for models that choose by those (``use_nope``)."""
    cos, sin = (table[inputs.positions][:, None] for table in (rope.cos, rope.sin))
    amplitude = cos * cos + sin * sin
    a, b = np.split(q, 2, -1)
    return np.ascontiguousarray(np.concatenate([a * cos + b * sin, b * cos - a * sin], -1) / np.tile(amplitude, 2))


def selection_arguments(
    q: npt.NDArray[np.float32], inputs: Any, cache: Any, layer: int, scale: float, sparse: Any, rope: Any
) -> tuple[Any, ...]:
    """What ``_native.block_scores`` and ``_native.select_blocks`` both take first."""
    return (
        upright(q, inputs, rope) if sparse.use_nope else q,
        inputs.positions,
        inputs.cu_seqlens,
        inputs.kv_lengths,
        inputs.block_tables,
        cache.pool,
        layer,
        scale,
        sparse.init_blocks,
        sparse.local_blocks,
        sparse.lse == "coarse",
        inputs.tree_masks is not None,
    )
