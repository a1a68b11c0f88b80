"""WARC and WET files: pages as they were fetched (text by trafilatura), or texts that a crawler took from them."""

from collections.abc import Iterator

from whimbrel.data.document import Document
from whimbrel.data.reading.fault import Fault, OnFault
from whimbrel.data.reading.files import Input
from whimbrel.data.reading.text import page_text
from whimbrel.errors import MissingExtra


def read_warc(file: Input, on_fault: OnFault) -> Iterator[Document]:
    """HTML responses and text conversions, in order; other records are passed over. Raises MissingExtra, OSError."""
    try:
        from warcio.archiveiterator import ArchiveIterator
        from warcio.exceptions import ArchiveLoadFailed
    except ImportError as error:
        raise MissingExtra("reading WARC needs warcio: `pip install whimbrel[data]`") from error
    index = 0
    with _open(file.url) as stream:
        try:
            for index, record in enumerate(ArchiveIterator(stream)):
                kind = record.rec_headers.get_header("Content-Type") or ""
                name = record.rec_headers.get_header("WARC-Target-URI") or f"{file.url}:{index}"
                if record.rec_type == "response" and record.http_headers is not None:
                    kind = record.http_headers.get_header("Content-Type") or ""
                    if "html" not in kind:
                        continue
                elif record.rec_type != "conversion":
                    continue
                data = record.content_stream().read()
                length = record.rec_headers.get_header("Content-Length")
                if record.rec_type == "conversion" and length and len(data) < int(length):
                    on_fault(Fault(file.url, index, f"{len(data)} of {length} bytes: the file is cut off", "record"))
                    return
                text = _decode(data, kind)
                if text is None:
                    on_fault(Fault(file.url, index, f"{name}: neither UTF-8 nor the encoding of {kind!r}", "record"))
                    continue
                yield Document(page_text(text) if "html" in kind else text, name, file.url, index, {"url": name})
        except (ArchiveLoadFailed, OSError, EOFError, ValueError) as error:
            on_fault(Fault(file.url, index, f"the file is cut off or damaged behind this place: {error}", "record"))


def _open(url: str):  # type: ignore[no-untyped-def]
    """Raw bytes: warcio takes the members of a .gz apart itself."""
    if "://" not in url:
        return open(url, "rb")
    import fsspec

    return fsspec.open(url, "rb").open()


def _decode(data: bytes, kind: str) -> str | None:
    encoding = kind.partition("charset=")[2].strip().strip("\"'") or "utf-8"
    for name in (encoding, "utf-8"):
        try:
            return data.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
    return None
