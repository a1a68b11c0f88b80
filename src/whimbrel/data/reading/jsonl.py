"""JSON lines. A line that is too long is stepped over without being held; a broken one costs itself, not its file."""

from collections.abc import Iterator
from typing import IO, Any

from whimbrel.data.document import Document
from whimbrel.data.reading.fault import Fault, OnFault
from whimbrel.data.reading.files import Input, open_bytes
from whimbrel.errors import MissingExtra

LONGEST_LINE = 64 << 20
"""bytes; a longer line is no document"""
BROKEN_STREAM = (OSError, EOFError)
"""what the decompressors raise for streams that are cut off or damaged; zlib's and zstd's own are added when read"""


def read_jsonl(file: Input, column: str, on_fault: OnFault, longest: int = LONGEST_LINE) -> Iterator[Document]:
    """The documents of a file. ``column`` names the text; ``id`` is kept where there is one; all else becomes metadata.

    Raises MissingExtra; OSError when the file can't be opened.
    """
    try:
        import orjson
    except ImportError as error:
        raise MissingExtra("reading JSON needs orjson: `pip install whimbrel[data]`") from error
    with open_bytes(file.url) as stream:
        for offset, line in _lines(stream, file, on_fault, longest):
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                on_fault(Fault(file.url, offset, f"no JSON: {error}"))
                continue
            document = _document(record, column, file.url, offset)
            if isinstance(document, str):
                on_fault(Fault(file.url, offset, document))
            else:
                yield document


def _document(record: Any, column: str, url: str, offset: int) -> Document | str:
    """The document of a record, or what is wrong with it."""
    if not isinstance(record, dict):
        return f"a JSON {type(record).__name__}, want an object"
    text = record.pop(column, None)
    if text is None:
        return f"no column {column!r}; it has {', '.join(map(repr, list(record)[:8])) or 'none'}"
    if not isinstance(text, str):
        return f"column {column!r} holds a {type(text).__name__}, want text"
    name = record.pop("id", None)
    return Document(text, f"{url}:{offset}" if name is None else str(name), url, offset, record)


def _lines(stream: IO[bytes], file: Input, on_fault: OnFault, longest: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each line that is not blank."""
    offset = 0
    try:
        while line := stream.readline(longest + 1):
            start, offset = offset, offset + len(line)
            if len(line) > longest and not line.endswith(b"\n"):
                while rest := stream.readline(longest):
                    offset += len(rest)
                    if rest.endswith(b"\n"):
                        break
                on_fault(Fault(file.url, start, f"a line of {offset - start} bytes, more than {longest}"))
            elif not line.isspace():
                yield start, line
    except _broken() as error:
        on_fault(Fault(file.url, offset, f"the file is cut off or damaged behind this place: {error}"))


def _broken() -> tuple[type[Exception], ...]:
    import lzma
    import zlib

    kinds: tuple[type[Exception], ...] = (*BROKEN_STREAM, zlib.error, lzma.LZMAError)
    try:
        import zstandard
    except ImportError:
        return kinds
    return (*kinds, zstandard.ZstdError)
