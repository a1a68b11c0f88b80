"""Text and HTML files: one document each."""

from collections.abc import Iterator

from whimbrel.data.document import Document
from whimbrel.data.reading.fault import Fault, OnFault
from whimbrel.data.reading.files import Input, open_bytes
from whimbrel.data.reading.jsonl import LONGEST_LINE, _broken
from whimbrel.errors import MissingExtra


def read_text(file: Input, on_fault: OnFault, longest: int = LONGEST_LINE) -> Iterator[Document]:
    """The file as a document; for HTML, the main text of the page. Raises OSError, MissingExtra (HTML)."""
    with open_bytes(file.url) as stream:
        try:
            data = stream.read(longest + 1)
        except _broken() as error:
            on_fault(Fault(file.url, 0, f"the file is cut off or damaged: {error}"))
            return
    if len(data) > longest:
        on_fault(Fault(file.url, longest, f"a text of more than {longest} bytes"))
        return
    if (zero := data.find(b"\0")) >= 0:
        on_fault(Fault(file.url, zero, "a zero byte: this is no text file"))
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        on_fault(Fault(file.url, error.start, f"no UTF-8: {error.reason}"))
        return
    yield Document(page_text(text) if file.kind == "html" else text, file.url, file.url)


def page_text(html: str) -> str:
    """The main text of a page, by trafilatura; empty when it finds none. Raises MissingExtra."""
    try:
        import trafilatura
    except ImportError as error:
        raise MissingExtra("taking the text from HTML needs trafilatura: `pip install whimbrel[data]`") from error
    return trafilatura.extract(html, include_comments=False) or ""
