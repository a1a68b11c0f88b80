"""Opening inputs: which files a pattern means, and one stream of decompressed bytes from any of them."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from whimbrel.errors import MissingExtra, ModelNotFound, UsageError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bz2"}
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".warc": "warc",
    ".wet": "warc",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".html": "html",
    ".htm": "html",
}


@dataclass(frozen=True)
class Input:
    """One file to read: ``url``, ``kind`` (a value of ``KINDS``) and ``size`` in bytes as it is stored."""

    url: str
    kind: str
    size: int


def find(patterns: Sequence[str], kind: str | None = None) -> list[Input]:
    """The files of paths, folders, globs and fsspec URLs, each pattern's in order of name, none twice.

    Raises ModelNotFound for a pattern without a file, UsageError for a file whose kind its name does not tell.
    """
    found: dict[str, Input] = {}
    for pattern in patterns:
        entries = list(_entries(pattern))
        if not entries:
            raise ModelNotFound(f"no file matches {pattern}")
        for url, size, listed in entries:
            known = kind or kind_of(url)
            if known is None and listed:
                continue  # a folder may hold other things
            if known is None:
                raise UsageError(
                    f"{url}: its name tells no format; name one with --kind ({', '.join(sorted(set(KINDS.values())))})"
                )
            found.setdefault(url, Input(url, known, size))
    if not found:
        raise ModelNotFound(
            f"{', '.join(patterns)}: no file there has a name that tells its format; name one with --kind"
        )
    return list(found.values())


def kind_of(url: str) -> str | None:
    """The format that a name tells: ``pages.jsonl.gz`` is jsonl; None when it tells none."""
    path = Path(url)
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        suffix = Path(path.stem).suffix.lower()
    return KINDS.get(suffix)


def _entries(pattern: str) -> Iterator[tuple[str, int, bool]]:
    """URL, stored size, and whether it was listed from a folder."""
    if "://" not in pattern:
        path = Path(pattern)
        if path.is_file():
            yield str(path), path.stat().st_size, False
        else:
            listing = path.rglob("*") if path.is_dir() else Path(path.anchor or ".").glob(str(path).lstrip("/"))
            for file in sorted(entry for entry in listing if entry.is_file()):
                yield str(file), file.stat().st_size, path.is_dir()
        return
    fsspec = _fsspec()
    system, root = fsspec.core.url_to_fs(pattern)
    folder = "*" not in root and system.isdir(root)
    for name in sorted(system.find(root) if folder else system.glob(root)):
        yield system.unstrip_protocol(name), int(system.size(name) or 0), folder


@contextmanager
def open_bytes(url: str) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a path or URL, whatever its compression. OSError and EOFError come from reading."""
    compression = COMPRESSIONS.get(Path(url).suffix.lower())
    if "://" not in url:
        with open(url, "rb") as raw, _decompress(raw, compression) as stream:
            yield stream
        return
    with _fsspec().open(url, "rb") as raw, _decompress(raw, compression) as stream:
        yield stream


def _decompress(raw: Any, compression: str | None) -> Any:
    if compression == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=raw)
    if compression == "zstd":
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtra("reading .zst needs zstandard: `pip install whimbrel[data]`") from error
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True), 1 << 20)
    if compression == "xz":
        import lzma

        return lzma.LZMAFile(raw)
    if compression == "bz2":
        import bz2

        return bz2.BZ2File(raw)
    return raw


def _fsspec() -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtra("URLs are opened through fsspec: `pip install whimbrel[data]`") from error
    return fsspec
