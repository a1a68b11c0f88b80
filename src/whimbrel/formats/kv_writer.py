"""KVWriter: a ``.kv`` file while it is written, block by block, so that whatever stops it can be resumed.

Order is what makes it safe: blocks, their kernels and their checksums are written and made to last (fsync) before the
preamble counts them. A block that is counted is on the disk; its checksum is compared once more when writing resumes.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, UsageError, WriteError
from whimbrel.formats.kv_file import (
    COMPLETE,
    PAGE,
    WRITING,
    KVHeader,
    Preamble,
    block_checksum,
    digest,
    read_head,
    read_section,
)
from whimbrel.formats.kv_layout import GROUP, KERNELS, Bytes, KVLayout, Scales

PIECE = 1 << 15
"""Bytes of one write. The system keeps what is written at once together in its page cache, and maps it together when one
page of it is touched (Linux 6.18): with whole blocks, a question made 8 times as much of the document resident."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def part_of(path: Path) -> Path:
    """Where a file is while it is written."""
    return path.with_name(path.name + ".part")


class KVWriter:
    """Appends blocks to ``path``'s ``.part``. A context manager; leaving it early commits what it can.

    ``committed`` blocks are on the disk, ``written`` of them or more have been appended.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any], sections: Mapping[str, bytes], layout: KVLayout) -> None:
        """Begin a file, in place of an unfinished one. ``meta`` is anything that JSON can hold.

        Raises WriteError where the disk refuses, UsageError where another process is writing it.
        """
        self.path = path
        self._file = _lock(part_of(path), os.O_RDWR | os.O_CREAT)
        self.header = KVHeader.plan(meta, sections, layout)
        self._start([])
        with self._closing():
            _truncate(self._file, part_of(path))
            packed = self.header.pack()
            self._write(packed, PAGE)
            for name, data in sections.items():
                self._write(data, self.header.sections[name][0])
            self._write_preamble(WRITING)
            self._sync()

    @classmethod
    def resume(cls, path: Path) -> "KVWriter":
        """Go on with an unfinished file behind its last committed block that is intact.

        Raises FormatError where the file is foreign or damaged, UsageError where there is none or it is being written.
        """
        part = part_of(path)
        self = cls.__new__(cls)
        self.path = path
        self._file = _lock(part, os.O_RDWR)
        with self._closing():
            with os.fdopen(os.dup(self._file), "rb") as file:
                preamble, self.header = read_head(file, part)
                for name in self.header.sections:
                    read_section(file, part, self.header, name)
            self._start([])
            stored = np.frombuffer(self._read(4 * preamble.committed, self.header.checksums), np.uint32)
            for index in range(min(len(stored), preamble.committed)):
                if self._stored_checksum(index) != stored[index]:
                    break
                self._checksums.append(int(stored[index]))
            self.committed = self.written
            if self.written % GROUP:
                self._load_group(self.written // GROUP)
        return self

    def _start(self, checksums: list[int]) -> None:
        layout = self.header.layout
        self.layout = layout
        self._checksums = checksums
        self.committed = len(checksums)
        self._group_codes = np.zeros((layout.kernel_rows, layout.kernel_dim // 4, GROUP, 4 * KERNELS), np.uint8)
        self._group_scales = np.zeros((layout.kernel_rows, GROUP, KERNELS), np.float32)

    @property
    def written(self) -> int:
        """Blocks appended so far."""
        return len(self._checksums)

    @property
    def meta(self) -> dict[str, Any]:
        """What the file says about model and document."""
        return self.header.meta

    def section_hashes(self) -> dict[str, str]:
        """Name -> blake2b of the small sections, to compare them with others."""
        return {name: hash for name, (_, _, hash) in self.header.sections.items()}

    def append(self, data: Bytes, codes: Bytes, scales: Scales) -> None:
        """The next block: uint8 [block_bytes], and its kernels, uint8 [R, K/4, 16], float32 [R, 4] (empty without any).

        Raises WriteError where the disk is full; what was committed stays.
        """
        layout, index = self.layout, self.written
        assert index < layout.num_blocks and data.nbytes == layout.block_bytes
        whole = memoryview(np.ascontiguousarray(data).data)
        for start in range(0, layout.block_bytes, PIECE):
            self._write(bytes(whole[start : start + PIECE]), self.header.blocks + index * layout.block_bytes + start)
        slot = index % GROUP
        if layout.kernel_dim:
            if slot == 0:
                self._group_codes[:] = 0
                self._group_scales[:] = 0
            self._group_codes[:, :, slot] = codes
            self._group_scales[:, slot] = scales
            if slot == GROUP - 1:
                self._write_group(index // GROUP)
        self._checksums.append(block_checksum(data, codes, scales))

    def commit(self) -> None:
        """Make the disk keep all blocks appended so far. Raises WriteError."""
        if self.committed == self.written:
            return
        if self.layout.kernel_dim and self.written % GROUP:
            self._write_group(self.written // GROUP)
        first = self.committed
        self._write(np.array(self._checksums[first:], np.uint32), self.header.checksums + 4 * first)
        self._sync()
        self.committed = self.written
        self._write_preamble(WRITING)

    def finish(self) -> None:
        """Commit, declare the file complete, and give it its name. Raises WriteError."""
        assert self.written == self.layout.num_blocks, "blocks are missing"
        self.commit()
        with self._disk_errors():
            os.ftruncate(self._file, self.header.file_bytes)  # where there are no blocks, the file ends before its page
        self._write_preamble(COMPLETE)
        self._sync()
        with self._disk_errors():
            os.replace(part_of(self.path), self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self.close()

    def block(self, index: int) -> tuple[Bytes, Bytes, Scales]:
        """Data and kernels of a block that was committed, read back."""
        data = np.frombuffer(self._read_block(index), np.uint8)
        codes, scales = self._read_group(index // GROUP)
        return data, codes[:, :, index % GROUP], scales[:, index % GROUP]

    def close(self) -> None:
        """Close the file; the part stays as it is. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self._file >= 0:
                self.commit()
        except WriteError:
            pass  # the error that brought us here says more
        finally:
            self.close()

    # --- inside

    def _write_preamble(self, state: int) -> None:
        packed = self.header.pack()
        preamble = Preamble(
            state=state,
            header_bytes=len(packed),
            header_hash=digest(packed),
            committed=self.committed,
            checksums_crc=crc32(np.array(self._checksums[: self.committed], np.uint32).data),
        )
        self._write(preamble.pack(), 0)

    def _write_group(self, group: int) -> None:
        layout = self.layout
        for row in range(layout.kernel_rows):
            place = row * layout.num_groups + group
            self._write(self._group_codes[row], self.header.codes + place * layout.row_codes)
            self._write(self._group_scales[row], self.header.scales + place * layout.row_scales)

    def _read_group(self, group: int) -> tuple[Bytes, Scales]:
        layout = self.layout
        codes, scales = np.empty_like(self._group_codes), np.empty_like(self._group_scales)
        for row in range(layout.kernel_rows):
            place = row * layout.num_groups + group
            part = self._read(layout.row_codes, self.header.codes + place * layout.row_codes)
            codes[row] = np.frombuffer(part, np.uint8).reshape(codes[row].shape)
            part = self._read(layout.row_scales, self.header.scales + place * layout.row_scales)
            scales[row] = np.frombuffer(part, np.float32).reshape(scales[row].shape)
        return codes, scales

    def _load_group(self, group: int) -> None:
        """Go on in a group that is not full."""
        self._group_codes, self._group_scales = self._read_group(group)
        self._group_codes[:, :, self.written % GROUP :] = 0
        self._group_scales[:, self.written % GROUP :] = 0

    def _stored_checksum(self, index: int) -> int | None:
        """Checksum of a block as it lies on the disk; None where it ends before."""
        try:
            return block_checksum(*self.block(index))
        except FormatError:
            return None

    def _read_block(self, index: int) -> bytes:
        return self._read(self.layout.block_bytes, self.header.blocks + index * self.layout.block_bytes)

    def _read(self, size: int, at: int) -> bytes:
        data = os.pread(self._file, size, at)
        while 0 < len(data) < size and (more := os.pread(self._file, size - len(data), at + len(data))):
            data += more
        if len(data) != size:
            raise FormatError(f"{part_of(self.path)} ends before its blocks do; remove it and read the document again")
        return data

    def _write(self, data: bytes | npt.NDArray[Any], at: int) -> None:
        view = memoryview(data if isinstance(data, bytes) else data.data).cast("B")
        with self._disk_errors():
            while len(view):
                count = os.pwrite(self._file, view, at)
                view, at = view[count:], at + count

    def _sync(self) -> None:
        with self._disk_errors():
            os.fsync(self._file)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """What the disk refuses, in one line that says what stays."""
        try:
            yield
        except OSError as error:
            part = part_of(self.path)
            kept = f"{self.committed:,} of {self.layout.num_blocks:,} blocks are safe in {part}"
            if error.errno in _FULL:
                message = f"the disk is full; {kept}: make room and run the same command again to go on"
            else:
                message = f"{part} can't be written: {error.strerror}; {kept}"
            raise WriteError(message) from error

    @contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def _lock(part: Path, flags: int) -> int:
    """Open the part for this process alone; the lock goes with the process, however it ends."""
    try:
        file = os.open(part, flags, 0o644)
    except FileNotFoundError:
        raise UsageError(f"there is no {part.parent} to write in; choose another place with --out") from None
    except OSError as error:
        raise WriteError(f"{part} can't be opened: {error.strerror}; choose another place with --out") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise UsageError(f"{part} is being written by another process; wait for it, or choose another name") from None
    return file


def _truncate(file: int, part: Path) -> None:
    try:
        os.ftruncate(file, 0)
    except OSError as error:
        raise WriteError(f"{part} can't be written: {error.strerror}") from error
