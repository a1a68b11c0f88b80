"""Parquet files, a batch of rows at a time."""

from collections.abc import Iterator

from whimbrel.data.document import Document
from whimbrel.data.reading.fault import Fault, OnFault
from whimbrel.data.reading.files import Input, open_bytes
from whimbrel.errors import MissingExtra

BATCH = 256


def read_parquet(file: Input, column: str, on_fault: OnFault) -> Iterator[Document]:
    """The rows of a file as documents; columns beside ``column`` and ``id`` become metadata. Raises MissingExtra, OSError."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("reading Parquet needs pyarrow: `pip install whimbrel[data]`") from error
    row = 0
    with open_bytes(file.url) as stream:
        try:
            table = pq.ParquetFile(stream)
            if column not in table.schema_arrow.names:
                names = ", ".join(table.schema_arrow.names[:12])
                on_fault(Fault(file.url, 0, f"no column {column!r}; it has {names}", "row"))
                return
            for batch in table.iter_batches(BATCH):
                for record in batch.to_pylist():
                    text, name = record.pop(column), record.pop("id", None)
                    if isinstance(text, str):
                        yield Document(text, f"{file.url}:{row}" if name is None else str(name), file.url, row, record)
                    else:
                        on_fault(Fault(file.url, row, f"column {column!r} holds no text", "row"))
                    row += 1
        except (pa.ArrowException, OSError) as error:
            on_fault(Fault(file.url, row, f"the file is cut off or damaged behind this place: {error}", "row"))
