"""Packed batches: nothing is lost or mixed, little is wasted, and a step's number says all."""

from pathlib import Path

import numpy as np
import pytest

from whimbrel.errors import InvalidParameter
from whimbrel.formats.shards import ShardWriter
from whimbrel.train.batches import IGNORED, Batches, pack


def shard(path: Path, lengths: list[int], marks: bool = False) -> Path:
    """Token i of document d is (7 d + i) % 1000: a target can be told from its input."""
    with ShardWriter(path, vocab_size=1000, vocabulary="test", marks=marks) as writer:
        for document, length in enumerate(lengths):
            ids = (7 * document + np.arange(length)) % 1000
            writer.add(ids, ids % 2 if marks else None)
    return path


def lengths(count: int) -> list[int]:
    """Log-normal, as documents are."""
    return np.maximum(1, np.random.default_rng(1).lognormal(4, 1, count)).astype(int).tolist()


def test_an_epoch_sees_every_token_once(tmp_path: Path) -> None:
    sizes = lengths(300)
    paths = [shard(tmp_path / "a.shard", sizes), shard(tmp_path / "b.shard", [40, 1, 2])]
    batches = Batches(paths, sequence=128, rows=1)
    seen = [batches.batch(step) for step in range(batches.row_count)]
    assert sum(len(batch.token_ids) for batch in seen) == sum(sizes) - len(sizes) + 39 + 0 + 1
    assert batches.tokens_per_epoch == sum(len(batch.token_ids) for batch in seen)
    for batch in seen:
        assert len(batch.token_ids) <= 128
        assert ((batch.token_ids + 1) % 1000 == batch.targets).all()
        for first, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
            assert batch.positions[first:end].tolist() == list(range(end - first))
    other = Batches(paths, sequence=128, rows=1, seed=1)
    assert other.row_count == batches.row_count
    assert any(not np.array_equal(a.token_ids, other.batch(i).token_ids) for i, a in enumerate(seen))


@pytest.mark.parametrize("sequence", [256, 1024])
def test_packing_wastes_less_than_three_percent(tmp_path: Path, sequence: int) -> None:
    assert Batches(shard(tmp_path / "a.shard", lengths(5000)), sequence=sequence, rows=1).waste < 0.03


def test_a_step_follows_from_its_number(tmp_path: Path) -> None:
    """In any order, over the border of epochs, from a new object."""
    path = shard(tmp_path / "a.shard", lengths(50))
    first = Batches(path, sequence=64, rows=3)
    steps = int(2.5 * first.steps_per_epoch)
    seen = [first.batch(step) for step in range(steps)]
    again = Batches(path, sequence=64, rows=3)
    for step in reversed(range(steps)):
        assert np.array_equal(again.batch(step).token_ids, seen[step].token_ids)
        assert np.array_equal(again.batch(step).cu_seqlens, seen[step].cu_seqlens)


def test_unmarked_tokens_are_not_learned(tmp_path: Path) -> None:
    batch = Batches(shard(tmp_path / "a.shard", [40], marks=True), sequence=64, rows=1).batch(0)
    assert (batch.targets[::2] % 2 == 1).all() and (batch.targets[1::2] == IGNORED).all()
    assert batch.learned == 20


def test_parts_of_a_batch_are_the_batch(tmp_path: Path) -> None:
    batch = Batches(shard(tmp_path / "a.shard", lengths(100)), sequence=256, rows=8).batch(0)
    parts = batch.split(4)
    assert len(parts) == 4
    assert np.array_equal(np.concatenate([part.token_ids for part in parts]), batch.token_ids)
    assert all(part.cu_seqlens[0] == 0 and part.cu_seqlens[-1] == len(part.token_ids) for part in parts)
    assert max(len(part.token_ids) for part in parts) < 2 * min(len(part.token_ids) for part in parts)


def test_pack_fills_rows() -> None:
    rows = pack(np.array([5, 4, 3, 2, 1, 5]), 10, np.random.default_rng(0))
    assert sorted(np.concatenate(rows).tolist()) == list(range(6)) and len(rows) == 2


def test_too_little_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match=r"fill 1 rows of 64 tokens, a batch needs 2"):
        Batches(shard(tmp_path / "a.shard", [20, 20]), sequence=64, rows=2)
    with pytest.raises(InvalidParameter, match="nothing to predict"):
        Batches(shard(tmp_path / "b.shard", [1]), sequence=64, rows=1)
