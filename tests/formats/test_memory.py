"""Slabs: pieces are aligned, apart from each other, alive as long as someone holds them, and given back after."""

import gc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from whimbrel.formats.memory import SLAB_BYTES, Slabs, weight_memory


def test_shape_type_and_alignment() -> None:
    for shape, dtype in [((3, 5, 16), np.float16), ((1,), np.uint8), ((7, 64), np.float32), ((0, 4), np.uint8)]:
        array = weight_memory(shape, dtype)
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.size == 0 or array.ctypes.data % 64 == 0


def test_pieces_never_overlap() -> None:
    slabs, sizes = Slabs(), [1, 63, 64, 65, 1000, SLAB_BYTES // 3, SLAB_BYTES // 2, SLAB_BYTES, 5] * 3
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(slabs.take, sizes))
    spans = sorted((piece.ctypes.data, piece.ctypes.data + piece.nbytes) for piece in pieces)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert [piece.nbytes for piece in pieces] == sizes


def test_a_piece_outlives_its_slab() -> None:
    slabs = Slabs()
    piece = slabs.take(100)
    piece[:] = 7
    del slabs
    gc.collect()
    assert (piece == 7).all()


def test_memory_is_given_back() -> None:
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("needs /proc")

    def mapped() -> int:
        return int(status.read_text().split()[0]) * 4096

    before = mapped()
    slabs = Slabs()
    pieces = [slabs.take(SLAB_BYTES // 4) for _ in range(40)]
    assert mapped() - before >= 10 * SLAB_BYTES
    del pieces, slabs
    gc.collect()
    assert mapped() - before < 3 * SLAB_BYTES
