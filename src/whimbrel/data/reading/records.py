"""The records of small files, evaluation sets above all, as plain objects: nothing is stepped over."""

import json
from collections.abc import Iterator
from typing import Any

from whimbrel.data.reading.files import Input, open_bytes
from whimbrel.data.reading.read import read
from whimbrel.errors import FormatError


def records(file: Input) -> Iterator[Any]:
    """Each line of JSON lines, each row of Parquet, each text. Raises FormatError."""
    if file.kind == "parquet":
        import pyarrow.parquet as pq

        with open_bytes(file.url) as stream:
            yield from pq.read_table(stream).to_pylist()
    elif file.kind == "jsonl":
        with open_bytes(file.url) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    if not line.isspace():
                        yield json.loads(line)
                except ValueError as error:
                    raise FormatError(f"{file.url}, line {number}: no JSON: {error}") from error
    else:
        for document in read(file):
            yield document.text
