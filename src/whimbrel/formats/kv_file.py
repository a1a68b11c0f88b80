"""The ``.kv`` file: a document that a model has read, as blocks of keys and values that can be memory-mapped.

| at           | what                                                                                               |
|--------------|----------------------------------------------------------------------------------------------------|
| 0            | preamble: magic, version, state, where the header is and its hash, committed blocks, checksums     |
| 4096         | header: JSON with ``meta`` (whatever the writer says about model and document), layout, sections   |
| then         | small sections (token ids, offsets, text), each with a blake2b hash in the header                  |
| page-aligned | ``checksums``: crc32 of every block with its semantic kernels, uint32 [blocks]                      |
| page-aligned | ``codes``, ``scales``: semantic kernels, see ``kv_layout``                                         |
| 64 KiB       | ``blocks``: to the end of the file                                                                 |

Little-endian throughout. All sizes are known before the first block, so nothing ever moves. While it is written the
file is ``NAME.kv.part`` and its state says so; blocks are appended, and now and then ``commit`` makes the disk keep
them and only then writes how many there are. So whatever stops the writer, the committed blocks are whole, and their
checksums tell. ``finish`` sets the state and renames the file. A file with any other state, size or hash is refused.

Opening checks everything but the blocks, of which it checks a few (``SAMPLED``): reading 1.6 GB would take longer than
the answer. ``check`` checks them all.
"""

import json
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np
import numpy.typing as npt

from whimbrel import hardware
from whimbrel.errors import FormatError, UsageError
from whimbrel.formats.kv_layout import Bytes, KVLayout

MAGIC = b"WHMBL\x0dKV"
VERSION = 1
PAGE = 4096
ALIGNMENT = 1 << 16
"""Of the blocks: Linux maps 64 KiB around each page that is touched, and what a layer reads of a block is half of that."""
WRITING, COMPLETE = 0x50415254, 0x444F4E45
"""States: "PART", "DONE"."""
SAMPLED = 8
"""Blocks whose checksums are verified when a file is opened."""

Progress = Callable[[int, int], None]
"""Called with blocks done and all blocks."""

_PREAMBLE = struct.Struct("<8sIIQQ16sII")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preamble:
    """The first bytes of a file."""

    state: int
    header_bytes: int
    header_hash: bytes
    committed: int = 0
    """blocks that are on the disk"""
    checksums_crc: int = 0
    """crc32 of their checksums"""

    def pack(self) -> bytes:
        """52 bytes and their crc32."""
        fields = (MAGIC, VERSION, self.state, PAGE, self.header_bytes, self.header_hash)
        data = _PREAMBLE.pack(*fields, self.committed, self.checksums_crc)
        return data + _CRC.pack(crc32(data))


@dataclass(frozen=True, kw_only=True, slots=True)
class KVHeader:
    """What a file says about itself, and where its parts are."""

    meta: dict[str, Any]
    layout: KVLayout
    sections: dict[str, tuple[int, int, str]]
    """name -> offset, bytes, blake2b-16 in hexadecimal"""
    checksums: int
    """offsets of the page-aligned parts"""
    codes: int
    scales: int
    blocks: int

    @property
    def file_bytes(self) -> int:
        """Size of the complete file."""
        return self.blocks + self.layout.data_bytes

    def pack(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @staticmethod
    def unpack(data: bytes) -> "KVHeader":
        """Raises KeyError, TypeError or ValueError where it isn't one."""
        values = json.loads(data)
        values["layout"] = KVLayout(**values["layout"])
        values["sections"] = {
            name: (int(at), int(size), str(hash)) for name, (at, size, hash) in values["sections"].items()
        }
        return KVHeader(**values)

    @staticmethod
    def plan(meta: Mapping[str, Any], sections: Mapping[str, bytes], layout: KVLayout) -> "KVHeader":
        """Places for everything; the header itself gets as many pages as it may need."""
        entries = {name: (0, len(data), digest(data).hex()) for name, data in sections.items()}
        draft = KVHeader(meta=dict(meta), layout=layout, sections=entries, checksums=0, codes=0, scales=0, blocks=0)
        at = PAGE + _pages(len(draft.pack()) + 32 * (len(sections) + 4))
        for name, (_, size, hash) in entries.items():
            entries[name] = (at, size, hash)
            at += -(-size // 64) * 64
        checksums = _pages(at)
        codes = checksums + _pages(4 * layout.num_blocks)
        scales = codes + _pages(layout.code_bytes)
        blocks = -(-(scales + layout.scale_bytes) // ALIGNMENT) * ALIGNMENT
        return KVHeader(
            meta=dict(meta),
            layout=layout,
            sections=entries,
            checksums=checksums,
            codes=codes,
            scales=scales,
            blocks=blocks,
        )


def digest(data: bytes) -> bytes:
    """blake2b of 16 bytes."""
    return blake2b(data, digest_size=16).digest()


def block_checksum(data: Bytes, codes: npt.NDArray[Any], scales: npt.NDArray[Any]) -> int:
    """crc32 of a block and its semantic kernels."""
    crc = 0
    for part in (data, codes, scales):
        crc = crc32(np.ascontiguousarray(part).data, crc)
    return crc


def is_kv_file(path: Path) -> bool:
    """True if the file begins as a ``.kv`` file does."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def read_head(file: BinaryIO, path: Path) -> tuple[Preamble, KVHeader]:
    """Preamble and header of an open file. Raises FormatError for a foreign, damaged or other version's file."""
    file.seek(0)
    data = file.read(_PREAMBLE.size + _CRC.size)
    if not data.startswith(MAGIC):
        raise FormatError(f"{path} is no document that was read; make one with: whimbrel read DOCUMENT")
    if len(data) < _PREAMBLE.size + _CRC.size:
        raise _damaged(path, "it ends in its first line")
    _, version, state, at, size, hash, committed, checksums_crc = _PREAMBLE.unpack(data[: _PREAMBLE.size])
    if version != VERSION:
        raise FormatError(
            f"{path} has format version {version}, this program reads {VERSION}; read the document again with `whimbrel read`"
        )
    if _CRC.unpack(data[_PREAMBLE.size :])[0] != crc32(data[: _PREAMBLE.size]):
        raise _damaged(path, "its first line has another checksum")
    file.seek(at)
    header = file.read(size)
    if len(header) != size or digest(header) != hash:
        raise _damaged(path, "its header has another checksum")
    try:
        unpacked = KVHeader.unpack(header)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its header can't be understood ({error!r})") from None
    preamble = Preamble(
        state=state, header_bytes=size, header_hash=hash, committed=committed, checksums_crc=checksums_crc
    )
    if not 0 <= committed <= unpacked.layout.num_blocks:
        raise _damaged(path, "it counts more blocks than it has")
    return preamble, unpacked


def read_section(file: BinaryIO, path: Path, header: KVHeader, name: str) -> bytes:
    """A small section. Raises FormatError where it is damaged or missing."""
    if name not in header.sections:
        raise _damaged(path, f"its section {name!r} is missing")
    at, size, hash = header.sections[name]
    file.seek(at)
    data = file.read(size)
    if len(data) != size or digest(data).hex() != hash:
        raise _damaged(path, f"its section {name!r} has another checksum")
    return data


class KVFile:
    """A complete file, mapped read-only. A context manager; arrays of it keep the mapping alive."""

    def __init__(self, path: str | Path) -> None:
        """Raises UsageError where there is no such file, FormatError where it is foreign, damaged or half written."""
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self._open(file)
        except FileNotFoundError:
            raise UsageError(f"there is no {self.path}; make it with: whimbrel read DOCUMENT") from None
        except IsADirectoryError:
            raise UsageError(f"{self.path} is a folder; name the .kv file in it") from None
        except OSError as error:
            raise FormatError(f"{self.path} can't be read: {error.strerror}; check the file and your rights") from error

    def _open(self, file: BinaryIO) -> None:
        preamble, header = read_head(file, self.path)
        if preamble.state != COMPLETE or preamble.committed != header.layout.num_blocks:
            raise FormatError(
                f"{self.path} is half written ({preamble.committed:,} of {header.layout.num_blocks:,} blocks); "
                "go on with the `whimbrel read` that was interrupted, or read the document again"
            )
        size = file.seek(0, 2)
        if size != header.file_bytes:
            raise _damaged(self.path, f"it has {size:,} bytes and should have {header.file_bytes:,}")
        self.meta, self.layout = header.meta, header.layout
        self.nbytes = size
        self._sections = {name: read_section(file, self.path, header, name) for name in header.sections}
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._blocks_at = header.blocks
        whole = np.frombuffer(self._map, np.uint8)
        self.checksums = whole[header.checksums :][: 4 * self.layout.num_blocks].view(np.uint32)
        """uint32 [blocks]"""
        self.codes = whole[header.codes :][: self.layout.code_bytes]
        self.scales = whole[header.scales :][: self.layout.scale_bytes]
        """semantic kernels, uint8; see ``kv_layout``"""
        self.data = whole[header.blocks :]
        """uint8 [blocks * block_bytes]"""
        if crc32(self.checksums.data) != preamble.checksums_crc:
            raise _damaged(self.path, "its list of checksums has another checksum")
        count = self.layout.num_blocks
        self._check(sorted({index * (count - 1) // (SAMPLED - 1) for index in range(SAMPLED)}) if count else [])
        self.forget_pages()
        self._advise("MADV_RANDOM")  # which blocks are wanted depends on the question: neighbours are not worth reading

    def section(self, name: str) -> bytes:
        """A small section. Raises FormatError if the file has none of that name."""
        if name not in self._sections:
            raise _damaged(self.path, f"its section {name!r} is missing")
        return self._sections[name]

    def block(self, index: int) -> Bytes:
        """uint8 [block_bytes]"""
        return self.data[index * self.layout.block_bytes : (index + 1) * self.layout.block_bytes]

    def check(self, progress: Progress | None = None) -> None:
        """Compare every block with its checksum. Raises FormatError with the first that differs."""
        self._advise("MADV_SEQUENTIAL")
        for index in range(self.layout.num_blocks):
            self._check([index])
            if index % 64 == 63:
                self.forget_pages()
            if progress is not None:
                progress(index + 1, self.layout.num_blocks)
        self._advise("MADV_RANDOM")

    def _check(self, blocks: list[int]) -> None:
        for index in blocks:
            codes, scales = self.layout.kernels_of(self.codes, self.scales, index)
            if block_checksum(self.block(index), codes, scales) != self.checksums[index]:
                raise _damaged(self.path, f"block {index} of {self.layout.num_blocks} has another checksum")

    def read_ahead(self) -> None:
        """Have the system fetch the file into its page cache, in the background, where memory is free for it.

        Blocks that are not there come by faults of 4 KiB each: 56 s for a question to 1.6 GB that nobody had read since
        the machine started. What the page cache holds is not this process's memory, and goes when others need it.
        """
        if hasattr(os, "posix_fadvise") and hardware.memory().available > 2 * self.nbytes:
            Thread(target=_fetch, args=(self.path, self.nbytes), daemon=True).start()

    def forget_pages(self) -> None:
        """Let go of the pages of blocks that were touched: they count as this process's memory until then."""
        self._advise("MADV_DONTNEED")

    def _advise(self, name: str) -> None:
        """Tell the system about the blocks, where it listens."""
        if hasattr(mmap, name) and self.layout.num_blocks:
            self._map.madvise(getattr(mmap, name), self._blocks_at, self.layout.data_bytes)


def _fetch(path: Path, size: int) -> None:
    """Pieces of 128 KiB, because the system takes no more than its own read-ahead of each."""
    try:
        with path.open("rb") as file:
            for at in range(0, size, 1 << 17):
                os.posix_fadvise(file.fileno(), at, 1 << 17, os.POSIX_FADV_WILLNEED)
    except OSError:
        return  # only speed is lost


def _pages(count: int) -> int:
    return -(-count // PAGE) * PAGE


def _damaged(path: Path, why: str) -> FormatError:
    return FormatError(f"{path} is damaged: {why}; read the document again with `whimbrel read`")
