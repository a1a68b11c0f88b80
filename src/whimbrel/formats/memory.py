"""Memory for packed weights: aligned to cache lines, and on huge pages where the system has them.

Decoding reads every weight once per token, front to back. With pages of 4 KiB the hardware's prefetchers stop and the
address cache misses at each of them; on pages of 2 MiB all matrices of SmolLM2-135M (92 MB of q4 and q8) stream 15%
faster: 6.5 ms instead of 7.6 per token, one core. Matrices are smaller than such a page, so they share *slabs*.
"""

import math
import mmap
import threading

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64
"""Bytes: a line of codes never straddles two cache lines."""
SLAB_BYTES = 32 << 20
HUGE_PAGE = 2 << 20


class Slabs:
    """Hands out pieces of large mappings, one after the other. A slab is unmapped when the last piece is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slab = np.empty(0, np.uint8)
        self._used = 0

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """``uint8 [nbytes]``, uninitialised. Untouched memory costs nothing."""
        rounded = -(-nbytes // ALIGNMENT) * ALIGNMENT
        if rounded > SLAB_BYTES // 2:
            return _map(rounded)[:nbytes]
        with self._lock:
            if self._used + rounded > len(self._slab):
                self._slab, self._used = _map(SLAB_BYTES), 0
            start, self._used = self._used, self._used + rounded
            return self._slab[start : start + nbytes]


def _map(nbytes: int) -> npt.NDArray[np.uint8]:
    """A fresh private mapping that begins at a huge page; lives as long as arrays that point into it."""
    size = nbytes + HUGE_PAGE
    if not hasattr(mmap, "MAP_PRIVATE"):
        raw = np.empty(size, np.uint8)
    else:
        region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            region.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(region, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE
    return raw[start : start + nbytes]


_slabs = Slabs()


def weight_memory(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    """Like ``numpy.empty``, for weights: starts at a multiple of 64 bytes, on huge pages where possible."""
    kind = np.dtype(dtype)
    nbytes = math.prod(shape) * kind.itemsize
    return _slabs.take(nbytes).view(kind).reshape(shape)
