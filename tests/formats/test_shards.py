"""Token shards: what was written is read, and damaged, foreign or unfinished files are named."""

import errno
from pathlib import Path

import numpy as np
import pytest

from whimbrel.errors import FormatError, InvalidParameter, WriteError
from whimbrel.formats.shards import START, ShardReader, ShardWriter, open_shards

DOCUMENTS = [[1, 2, 3], [9], [4, 5, 6, 7, 8]]


def write(path: Path, vocab_size: int = 100, vocabulary: str = "abc", marks: bool = False) -> Path:
    with ShardWriter(
        path, vocab_size=vocab_size, vocabulary=vocabulary, marks=marks, meta={"source": "test"}
    ) as writer:
        for ids in DOCUMENTS:
            writer.add(ids, [id % 2 for id in ids] if marks else None)
    return path


@pytest.mark.parametrize(("vocab_size", "dtype"), [(100, np.uint16), (1 << 16, np.uint16), (1 << 17, np.uint32)])
@pytest.mark.parametrize("marks", [False, True])
def test_round_trip(tmp_path: Path, vocab_size: int, dtype: type, marks: bool) -> None:
    shard = ShardReader(write(tmp_path / "a.shard", vocab_size, marks=marks), vocabulary="abc")
    shard.verify()
    assert [shard[i].tolist() for i in range(len(shard))] == DOCUMENTS
    assert shard.tokens.dtype == dtype and shard.lengths().tolist() == [3, 1, 5]
    assert shard.header.meta == {"source": "test"} and shard.header.tokens == 9
    assert (shard.marks is not None) == marks
    if shard.marks is not None:
        assert shard.marks.tolist() == [id % 2 for ids in DOCUMENTS for id in ids]
    with pytest.raises(IndexError, match="3 documents"):
        shard[3]
    assert not list(tmp_path.glob("*.part"))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.shard")
    whole = path.read_bytes()
    for length in (0, 7, 12, 100, START, START + 3, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"truncated|not a token shard|version|header"):
            ShardReader(path)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.shard")
    data = bytearray(path.read_bytes())
    data[START + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="checksum"):
        ShardReader(path).verify()


def test_other_vocabularies_and_mixed_marks_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.shard"), write(tmp_path / "b.shard", vocabulary="xyz")
    with pytest.raises(FormatError, match="vocabulary abc, xyz was expected"):
        ShardReader(first, vocabulary="xyz")
    with pytest.raises(FormatError, match="b.shard: tokens of vocabulary xyz"):
        open_shards(tmp_path)
    write(second, marks=True)
    with pytest.raises(FormatError, match="some do not"):
        open_shards([first, second])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FormatError, match="no token shards"):
        open_shards(empty)


def test_impossible_documents_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    for ids, reason in (([], "not empty"), ([100], "outside the vocabulary"), ([-1], "outside"), ([1.5], "whole")):
        with (
            pytest.raises(InvalidParameter, match=reason),
            ShardWriter(tmp_path / "a.shard", vocab_size=100, vocabulary="abc") as writer,
        ):
            writer.add([1])
            writer.add(np.array(ids))
    with pytest.raises(InvalidParameter, match="2 ids and 1 marks"):
        ShardWriter(tmp_path / "a.shard", vocab_size=9, vocabulary="a", marks=True).add([1, 2], [1])
    with pytest.raises(InvalidParameter, match="without documents"):
        ShardWriter(tmp_path / "a.shard", vocab_size=9, vocabulary="a").close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteError, match="a.shard: the disk is full"):
        write(tmp_path / "a.shard")
    assert not list(tmp_path.iterdir())
