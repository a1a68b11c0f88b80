"""What a plan says about sparse attention and long contexts."""

import pytest

from whimbrel.errors import InvalidParameter
from whimbrel.zoo.plan import plan

BLOCK = 24 * 2 * 64 * 2 * 64 * 2
"""Bytes of keys and values of one block of MiniCPM4-0.5B: layers, heads, tokens, both, head_dim, bf16."""
KERNELS = 24 * 2 * 4 * (64 + 4)


def test_kernels_are_memory_and_lists_save_reading() -> None:
    sparse = plan("minicpm4-0.5b", context=131_072, bandwidth=1e10, offline=True)
    dense = plan("minicpm4-0.5b", context=131_072, attention="dense", bandwidth=1e10, offline=True)
    assert dense.cache == 2048 * BLOCK and sparse.cache == 2048 * (BLOCK + KERNELS)
    assert dense.decode_limit and sparse.decode_limit and dense.decode_limit_empty
    read = 1e10 / sparse.decode_limit - 1e10 / dense.decode_limit_empty
    assert read == pytest.approx(96 * BLOCK + 2048 * KERNELS)
    assert sparse.longest_context == 131_072 and sparse.attention.startswith("sparse from 8,192")
    short = plan("minicpm4-0.5b", context=8_000, bandwidth=1e10, offline=True)
    assert short.decode_limit == pytest.approx(1e10 / (1e10 / dense.decode_limit_empty + 125 * BLOCK))


def test_notes_are_what_opening_would_log() -> None:
    notes = plan("minicpm4-8b", context=262_144, offline=True).notes
    assert len(notes) == 2 and "configuration says" in notes[0] and "beyond 131,072" in notes[1]
    assert plan("minicpm4-8b", attention="dense", offline=True).notes[0].startswith("attention is dense as asked")
    with pytest.raises(InvalidParameter, match="32 times"):
        plan("minicpm4-8b", context=2**21, offline=True)
