"""Token shards: documents as token ids in one memory-mapped file, for training.

    4096 bytes   "WHBLSHRD", uint32 version, uint32 bytes of the header, the header (JSON), zeros
    tokens       uint16 or uint32 [tokens], little-endian, all documents after each other
    marks        uint8 [tokens], 1 where the loss counts (a file without marks: everywhere), else absent
    ends         uint64 [documents], where each document ends

The header names the vocabulary (a fingerprint that its maker chose), counts, and a CRC-32 of what follows it. A file
gets its name when it is whole; until then it is ``NAME.part``.
"""

import errno
import json
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

from whimbrel.errors import FormatError, InvalidParameter, WriteError

MAGIC = b"WHBLSHRD"
VERSION = 1
START = 4096
"""Where the tokens begin: a page, so that the map of them is aligned."""
CHUNK = 1 << 22
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Ids = npt.NDArray[np.unsignedinteger[Any]]
Marks = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardHeader:
    """What a shard says about itself."""

    dtype: str
    """uint16 or uint32"""
    tokens: int
    documents: int
    marks: bool
    vocab_size: int
    vocabulary: str
    """fingerprint of the tokenizer; shards of one run must agree"""
    checksum: int
    """CRC-32 of everything behind the header"""
    meta: dict[str, Any] = field(default_factory=dict)
    """whatever its maker wanted to keep: source, license, counts"""

    @property
    def bytes(self) -> int:
        """Size of the whole file."""
        return START + self.tokens * (np.dtype(self.dtype).itemsize + self.marks) + 8 * self.documents


class ShardWriter:
    """Writes ``path``, document by document. A context manager: leaving it by an exception leaves no file.

    The disk holds the tokens as they come; in memory are 8 bytes a document, and a byte a token where marks are kept.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        vocab_size: int,
        vocabulary: str,
        marks: bool = False,
        meta: dict[str, Any] | None = None,
    ) -> None:
        """Ids are uint16 where ``vocab_size`` allows. Raises InvalidParameter, WriteError."""
        if vocab_size < 1 or vocab_size > 1 << 32:
            raise InvalidParameter(f"vocab_size {vocab_size} is impossible; 1 to {1 << 32} was expected")
        self.path = Path(path)
        self.vocab_size, self.vocabulary, self._meta = vocab_size, vocabulary, meta or {}
        self.dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self._ends = array("Q")
        self._marks: list[bytes] | None = [] if marks else None
        self._checksum = self.tokens = 0
        self._part = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._part.open("wb")
            self._file.write(bytes(START))
        except OSError as error:
            raise _refused(self._part, error) from None

    @property
    def documents(self) -> int:
        """How many were added."""
        return len(self._ends)

    def add(self, ids: Sequence[int] | npt.NDArray[Any], marks: Sequence[int] | npt.NDArray[Any] | None = None) -> None:
        """One document's ids; ``marks`` (as many) say which of them a model should learn to say.

        Raises InvalidParameter for no ids, ids outside the vocabulary and marks that don't fit; WriteError.
        """
        values = np.asarray(ids)
        if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
            raise InvalidParameter(f"document {self.documents}: a list of whole numbers, not empty, was expected")
        if values.min() < 0 or values.max() >= self.vocab_size:
            raise InvalidParameter(
                f"document {self.documents}: ids {values.min()} to {values.max()} are outside the vocabulary "
                f"of {self.vocab_size}"
            )
        if (marks is None) != (self._marks is None) or (marks is not None and len(marks) != len(values)):
            found = "none" if marks is None else str(len(marks))
            raise InvalidParameter(f"document {self.documents}: {len(values)} ids and {found} marks, which do not fit")
        self._write(values.astype(self.dtype).tobytes())
        if self._marks is not None:
            self._marks.append((np.asarray(marks) != 0).astype(np.uint8).tobytes())
        self.tokens += len(values)
        self._ends.append(self.tokens)

    def close(self) -> ShardHeader:
        """Write the header and give the file its name. Raises InvalidParameter when nothing was added, WriteError."""
        if not self._ends:
            self.discard()
            raise InvalidParameter(f"{self.path}: a shard without documents is of no use; none was written")
        for piece in self._marks or []:
            self._write(piece)
        self._write(np.asarray(self._ends, "<u8").tobytes())
        header = ShardHeader(
            dtype="uint16" if self.dtype.itemsize == 2 else "uint32",
            tokens=self.tokens,
            documents=self.documents,
            marks=self._marks is not None,
            vocab_size=self.vocab_size,
            vocabulary=self.vocabulary,
            checksum=self._checksum,
            meta=self._meta,
        )
        text = json.dumps(asdict(header)).encode()
        if len(text) > START - 16:
            self.discard()
            raise InvalidParameter(f"{self.path}: meta takes {len(text)} bytes, the header has room for {START - 16}")
        try:
            self._file.seek(0)
            self._file.write(MAGIC + np.array([VERSION, len(text)], "<u4").tobytes() + text)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self.path)
        except OSError as error:
            self.discard()
            raise _refused(self.path, error) from None
        return header

    def discard(self) -> None:
        """Forget what was written."""
        try:
            self._file.close()
        except OSError:  # what was buffered does not fit the disk, and nobody wants it
            pass
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        elif not self._file.closed:
            self.close()

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            self.discard()
            raise _refused(self.path, error) from None
        self._checksum = crc32(data, self._checksum)


class ShardReader:
    """One shard, mapped: ``tokens``, ``ends`` and ``marks`` are views of the file; ``reader[i]`` is document i."""

    def __init__(self, path: str | Path, *, vocabulary: str | None = None) -> None:
        """Open and check the size; ``vocabulary`` is the fingerprint that it must have. ``verify`` reads everything.

        Raises FormatError for a file that is truncated, foreign, of another version or another vocabulary.
        """
        self.path = Path(path)
        self.header = header = _read_header(self.path)
        if vocabulary is not None and header.vocabulary != vocabulary:
            raise FormatError(
                f"{self.path}: tokens of vocabulary {header.vocabulary}, {vocabulary} was expected; "
                "tokenize the text again with this model's tokenizer"
            )
        raw = np.memmap(self.path, np.uint8, "r")
        size = header.tokens * np.dtype(header.dtype).itemsize
        self.tokens: Ids = raw[START : START + size].view(np.dtype(header.dtype).newbyteorder("<"))
        rest = START + size
        self.marks: Marks | None = raw[rest : rest + header.tokens] if header.marks else None
        rest += header.tokens * header.marks
        self.ends: npt.NDArray[np.uint64] = np.frombuffer(raw[rest:].tobytes(), "<u8")  # marks may leave it unaligned
        starts = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        if int(self.ends[-1]) != header.tokens or (self.ends.astype(np.int64) <= starts).any():
            raise FormatError(f"{self.path}: its documents' ends are not in order; the file is damaged, make it again")

    def __len__(self) -> int:
        return self.header.documents

    def __getitem__(self, document: int) -> Ids:
        if not 0 <= document < len(self):
            raise IndexError(f"{self.path} has {len(self)} documents, number {document} was asked for")
        first = int(self.ends[document - 1]) if document else 0
        return self.tokens[first : int(self.ends[document])]

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every document, [documents]."""
        ends: npt.NDArray[np.int64] = self.ends.astype(np.int64)
        ends[1:] -= ends[:-1].copy()
        return ends

    def verify(self) -> None:
        """Read the whole file and compare its checksum; raises FormatError."""
        found = 0
        with self.path.open("rb") as file:
            file.seek(START)
            while data := file.read(CHUNK):
                found = crc32(data, found)
        if found != self.header.checksum:
            raise FormatError(
                f"{self.path}: checksum {found:08x}, the header says {self.header.checksum:08x}; "
                "the file is damaged, make it again"
            )


def open_shards(paths: str | Path | Iterable[str | Path], *, vocabulary: str | None = None) -> list[ShardReader]:
    """All shards of a folder (``*.shard``, by name) or of a list of files; they must share one vocabulary."""
    if isinstance(paths, str | Path):
        folder = Path(paths)
        files = sorted(folder.glob("*.shard")) if folder.is_dir() else [folder]
    else:
        files = [Path(path) for path in paths]
    if not files:
        raise FormatError(
            f"{paths}: no token shards there (*.shard); make them with whimbrel.formats.shards.ShardWriter"
        )
    readers: list[ShardReader] = []
    for file in files:
        readers.append(ShardReader(file, vocabulary=readers[0].header.vocabulary if readers else vocabulary))
    if len({reader.header.marks for reader in readers}) > 1:
        raise FormatError(f"{paths}: some shards mark what to learn and some do not; they can't be mixed")
    return readers


def _read_header(path: Path) -> ShardHeader:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(START)
    except OSError as error:
        raise FormatError(f"{path}: the shard can't be read: {error.strerror}") from None
    if start[:8] != MAGIC:
        raise FormatError(f"{path}: not a token shard (it does not begin with {MAGIC.decode()})")
    version, length = (int(x) for x in np.frombuffer(start[8:16].ljust(8, b"\0"), "<u4"))
    if version != VERSION:
        raise FormatError(f"{path}: a shard of version {version}, this build reads {VERSION}")
    try:
        header = ShardHeader(**json.loads(start[16 : 16 + length]))
        expected = header.bytes
    except (ValueError, TypeError):
        raise FormatError(f"{path}: its header can't be read; the file is damaged, make it again") from None
    if size != expected:
        what = "truncated" if size < expected else "longer than it should be"
        raise FormatError(f"{path}: {what}: {size} bytes, its header counts {expected}; make or copy it again")
    if header.dtype not in ("uint16", "uint32") or min(header.tokens, header.documents) < 1:
        raise FormatError(f"{path}: its header is impossible ({header.dtype}, {header.tokens} tokens)")
    return header


def _refused(path: Path, error: OSError) -> WriteError:
    reason = "the disk is full" if error.errno in _FULL else error.strerror or str(error)
    return WriteError(f"{path}: {reason}; the shard was not written")
