"""One call for all formats."""

from collections.abc import Iterator

from whimbrel.data.document import Document
from whimbrel.data.reading.fault import OnFault, stop
from whimbrel.data.reading.files import Input
from whimbrel.data.reading.jsonl import read_jsonl
from whimbrel.data.reading.parquet import read_parquet
from whimbrel.data.reading.text import read_text
from whimbrel.data.reading.warc import read_warc


def read(file: Input, column: str = "text", on_fault: OnFault = stop) -> Iterator[Document]:
    """The documents of a file, whatever its format. ``on_fault`` hears of what can't be read; the default stops there.

    Raises FormatError (from the default), MissingExtra, OSError when the file can't be opened at all.
    """
    if file.kind == "jsonl":
        return read_jsonl(file, column, on_fault)
    if file.kind == "parquet":
        return read_parquet(file, column, on_fault)
    if file.kind == "warc":
        return read_warc(file, on_fault)
    return read_text(file, on_fault)
