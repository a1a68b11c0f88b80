"""The .kv file: what was written is read, what was interrupted is resumed, what is damaged is refused."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whimbrel.errors import FormatError, UsageError, WriteError
from whimbrel.formats.kv_file import KVFile, is_kv_file
from whimbrel.formats.kv_layout import KVLayout
from whimbrel.formats.kv_writer import KVWriter, part_of

LAYOUT = KVLayout(num_blocks=6, block_bytes=5000, kernel_rows=3, kernel_dim=64)
SECTIONS = {"ids": b"\1\2\3" * 50, "text": "é".encode()}
META = {"model": {"name": "tiny"}, "n": 6}


def block(index: int) -> tuple[Any, Any, Any]:
    """Data and kernels of one block, random but known."""
    rng = np.random.default_rng(index)
    data = rng.integers(0, 256, LAYOUT.block_bytes, np.uint8)
    codes = rng.integers(0, 256, (LAYOUT.kernel_rows, LAYOUT.kernel_dim // 4, 16), np.uint8)
    return data, codes, rng.standard_normal((LAYOUT.kernel_rows, 4), np.float32)


def begin(path: Path, count: int = 6) -> KVWriter:
    """A writer with some blocks appended, not committed."""
    writer = KVWriter(path, META, SECTIONS, LAYOUT)
    for index in range(count):
        writer.append(*block(index))
    return writer


def complete(path: Path) -> Path:
    """A whole file."""
    with begin(path) as writer:
        writer.finish()
    return path


def assert_whole(path: Path) -> None:
    file = KVFile(path)
    assert file.meta == META and file.section("ids") == SECTIONS["ids"] and file.section("text") == SECTIONS["text"]
    for index in range(6):
        data, codes, scales = block(index)
        found_codes, found_scales = file.layout.kernels_of(file.codes, file.scales, index)
        assert (file.block(index) == data).all() and (found_codes == codes).all() and (found_scales == scales).all()
    file.check()


def test_what_was_written_is_read_and_can_not_be_changed(tmp_path: Path) -> None:
    path = complete(tmp_path / "a.kv")
    assert_whole(path)
    assert is_kv_file(path) and not part_of(path).exists()
    with pytest.raises(ValueError):
        KVFile(path).data[0] = 1


def test_a_layout_without_kernels(tmp_path: Path) -> None:
    layout = KVLayout(num_blocks=3, block_bytes=100)
    empty = layout.kernels_of(np.empty(0, np.uint8), np.empty(0, np.uint8), 0)
    with KVWriter(tmp_path / "a.kv", {}, {}, layout) as writer:
        for index in range(3):
            writer.append(np.full(100, index, np.uint8), *empty)
        writer.finish()
    file = KVFile(tmp_path / "a.kv")
    file.check()
    assert [int(file.block(i)[0]) for i in range(3)] == [0, 1, 2] and file.codes.size == file.scales.size == 0


@pytest.mark.parametrize("committed", range(6))
def test_an_interrupted_file_goes_on_behind_its_last_commit(tmp_path: Path, committed: int) -> None:
    path, whole = tmp_path / "a.kv", complete(tmp_path / "whole.kv")
    writer = begin(path, committed)
    writer.commit()
    if committed < 5:
        writer.append(*block(committed))  # lost: nobody committed it
    writer.close()
    with KVWriter.resume(path) as writer:
        assert writer.committed == writer.written == committed and writer.meta == META
        for index in range(committed):
            assert all((found == expected).all() for found, expected in zip(writer.block(index), block(index)))
        for index in range(committed, 6):
            writer.append(*block(index))
        writer.finish()
    assert path.read_bytes() == whole.read_bytes()


def test_a_block_that_the_disk_lost_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.kv"
    writer = begin(path, 5)
    writer.commit()
    place = writer.header.blocks + 3 * LAYOUT.block_bytes + 17
    writer.close()
    flip(part_of(path), place)
    with KVWriter.resume(path) as writer:
        assert writer.committed == 3


def test_an_error_commits_what_was_appended(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), begin(tmp_path / "a.kv", 3):
        raise KeyboardInterrupt
    assert KVWriter.resume(tmp_path / "a.kv").committed == 3


def test_a_half_written_file_is_refused_whatever_its_name(tmp_path: Path) -> None:
    begin(tmp_path / "a.kv", 6).commit()
    part_of(tmp_path / "a.kv").rename(tmp_path / "b.kv")
    with pytest.raises(FormatError, match="half written"):
        KVFile(tmp_path / "b.kv")


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    writer = begin(tmp_path / "a.kv", 1)
    for again in (lambda: begin(tmp_path / "a.kv"), lambda: KVWriter.resume(tmp_path / "a.kv")):
        with pytest.raises(UsageError, match="being written by another process"):
            again()
    writer.close()
    KVWriter.resume(tmp_path / "a.kv").close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path, pwrite = tmp_path / "a.kv", os.pwrite
    writer = begin(path, 2)
    writer.commit()

    def full(file: int, data: Any, at: int) -> int:
        if at + len(data) > writer.header.blocks + 3 * LAYOUT.block_bytes:
            raise OSError(code, os.strerror(code))
        return pwrite(file, data[: len(data) // 2 + 1], at)  # short writes are written on

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(WriteError, match="2 of 6 blocks are safe") as raised, writer:
        for index in range(2, 6):
            writer.append(*block(index))
    assert "\n" not in str(raised.value) and ("disk is full" in str(raised.value)) == (code != errno.EIO)
    monkeypatch.undo()
    with KVWriter.resume(path) as writer:
        assert writer.committed == 3  # leaving committed the third
        for index in range(3, 6):
            writer.append(*block(index))
        writer.finish()
    assert_whole(path)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_damage_anywhere_is_found(tmp_path: Path) -> None:
    good = complete(tmp_path / "a.kv").read_bytes()
    header = KVWriter(tmp_path / "b.kv", META, SECTIONS, LAYOUT).header
    data = {"blocks": header.blocks + 2 * 5000, "codes": header.codes + 9, "scales": header.scales + 3}
    small = {"version": 9, "state": 13, "preamble": 30, "header": 4100, "checksums": header.checksums + 5}
    small |= {name: at for name, (at, _, _) in header.sections.items()}
    for name, at in (small | data).items():
        path = tmp_path / f"{name}.kv"
        path.write_bytes(good)
        flip(path, at)
        with pytest.raises(FormatError) as raised:
            KVFile(path).check()
        assert "whimbrel read" in str(raised.value), name
    for size in (3, 40, 5000, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(FormatError):
            KVFile(path)
    path.write_bytes(good + b"!")
    with pytest.raises(FormatError, match="bytes and should have"):
        KVFile(path)


def test_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "a.kv").write_bytes(b"%PDF-1.7 and so on")
    with pytest.raises(FormatError, match="no document that was read"):
        KVFile(tmp_path / "a.kv")
    for path, text in ((tmp_path / "none.kv", "there is no"), (tmp_path, "is a folder")):
        with pytest.raises(UsageError, match=text):
            KVFile(path)
    with pytest.raises(UsageError, match="there is no .* to write in"):
        KVWriter(tmp_path / "nowhere" / "a.kv", {}, {}, LAYOUT)


def test_pages_that_were_let_go_of_come_back(tmp_path: Path) -> None:
    file = KVFile(complete(tmp_path / "a.kv"))
    before = bytes(file.data)
    file.forget_pages()
    file.read_ahead()
    assert bytes(file.data) == before
