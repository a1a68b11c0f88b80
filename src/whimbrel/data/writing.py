"""Documents -> files: JSON lines, Parquet, token shards. A file gets its name when it is whole; until then it is ``.part``."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from whimbrel.data.document import Document
from whimbrel.errors import InvalidParameter, MissingExtra, WriteError

FORMATS = {
    "jsonl": ".jsonl",
    "jsonl.zst": ".jsonl.zst",
    "jsonl.gz": ".jsonl.gz",
    "parquet": ".parquet",
    "shards": ".shard",
}
_ROWS = 1024


class Writer(Protocol):
    """What takes documents and ends as one file."""

    def add(self, document: Document) -> None:
        """Append a document."""

    def close(self) -> None:
        """Finish the file."""


@contextlib.contextmanager
def writer(path: Path, form: str, tokenizer: str | None = None) -> Iterator[Writer]:
    """A writer of one of ``FORMATS``. Left by an exception, it leaves no file.

    Raises InvalidParameter, MissingExtra; WriteError with the file's name when the disk is full or refuses.
    """
    if form not in FORMATS:
        raise InvalidParameter(f"format={form} is impossible; want one of {', '.join(FORMATS)}")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = (
            _Shards(path, tokenizer)
            if form == "shards"
            else _Parquet(part)
            if form == "parquet"
            else _Lines(part, form)
        )
        try:
            yield made
            made.close()
            if form != "shards":
                part.replace(path)
        except BaseException:
            made.discard()
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WriteError(
            f"can't write {path}: {error}; what is complete stays, and the same command goes on from there"
        ) from error


def row(document: Document) -> dict[str, Any]:
    """A document as it is written: its metadata, its id and its text, which win over metadata of that name."""
    return {**document.metadata, "id": document.id, "text": document.text}


class _Lines:
    def __init__(self, path: Path, form: str) -> None:
        import orjson

        self._dumps = orjson.dumps
        self._file: IO[bytes] = path.open("wb")
        self._out: Any = self._file
        if form == "jsonl.gz":
            import gzip

            self._out = gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=self._file, mtime=0)
        elif form == "jsonl.zst":
            self._out = _zstd().ZstdCompressor(level=3).stream_writer(self._file, closefd=False)

    def add(self, document: Document) -> None:
        self._out.write(self._dumps(row(document), option=_APPEND_NEWLINE))

    def close(self) -> None:
        if self._out is not self._file:
            self._out.close()
        self._file.close()

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


_APPEND_NEWLINE = 1 << 10
"""orjson.OPT_APPEND_NEWLINE, without importing it"""


class _Parquet:
    """Row groups of 1024. Metadata is one JSON column, since files of one corpus need one schema whatever their records hold."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtra("writing Parquet needs pyarrow: `pip install whimbrel[data]`") from error
        self._pa = pa
        self._schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("metadata", pa.string())])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, str]] = []

    def add(self, document: Document) -> None:
        metadata = json.dumps(document.metadata, ensure_ascii=False, default=str)
        self._rows.append({"id": document.id, "text": document.text, "metadata": metadata})
        if len(self._rows) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, self._schema))
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def discard(self) -> None:
        with contextlib.suppress(Exception):
            self._writer.close()


class _Shards:
    """Token shards (``whimbrel.formats.shards``) with the tokenizer's end-of-text id behind each document, where it has one."""

    def __init__(self, path: Path, tokenizer: str | None) -> None:
        from whimbrel.data.scoring.pieces import Pieces
        from whimbrel.formats.shards import ShardWriter

        if tokenizer is None:
            raise InvalidParameter("format=shards needs a tokenizer: name a tokenizer.json with --shard-tokenizer")
        self._pieces = Pieces.open(tokenizer)
        self._end = end_of_text(self._pieces)
        self._writer = ShardWriter(path, vocab_size=len(self._pieces.strings), vocabulary=self._pieces.fingerprint)

    def add(self, document: Document) -> None:
        import numpy as np

        ids = np.frombuffer(self._pieces.ids(document.text), np.int32)
        ids = ids if self._end is None else np.append(ids, np.int32(self._end))
        if len(ids):
            self._writer.add(ids)

    def close(self) -> None:
        if self._writer.documents:
            self._writer.close()
        else:
            self._writer.discard()  # a shard without documents is no shard

    def discard(self) -> None:
        self._writer.discard()


def end_of_text(pieces: Any) -> int | None:
    """The id that ends a document, by the names that tokenizers give it."""
    for name in ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<｜end▁of▁sentence｜>"):
        if (found := pieces.id_of(name)) is not None:
            return int(found)
    return None


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("writing .zst needs zstandard: `pip install whimbrel[data]`") from error
    return zstandard
