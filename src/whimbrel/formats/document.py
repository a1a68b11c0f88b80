"""A document, from file to plain text: text, Markdown, HTML (beautifulsoup4), PDF (pypdf).

Text and Markdown stay as they are. HTML loses its scripts, styles and tags; blocks end in newlines. PDF is the text of
its pages, in order. Nothing degrades quietly: bytes that are no UTF-8 are replaced with a logged warning that counts
them; a file that is empty, binary, encrypted, a scan, or of a kind that has no text is a FormatError.
"""

import logging
import re
from io import BytesIO
from pathlib import Path

from whimbrel.errors import FormatError, UsageError

log = logging.getLogger(__name__)

_HTML = {".html", ".htm", ".xhtml"}
_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\xef\xbb\xbf", "utf-8"),
)
_MOST_REPLACED = 0.05
"""More undecodable bytes than this share, and it was never text in UTF-8."""


def read_document(path: Path) -> str:
    """The text of a document. Raises UsageError where there is no such file, FormatError where it has no text."""
    return document_text(path, read_bytes(path))


def document_text(path: Path, data: bytes) -> str:
    """The text in a document's bytes; ``path`` names it in errors and by its suffix its kind. Raises FormatError."""
    if not data.strip():
        raise FormatError(f"{path} is empty; there is nothing to read in it")
    text = _pdf_text(path, data) if data.startswith(b"%PDF-") else _plain_text(path, data)
    if not text.strip():
        raise FormatError(f"{path} has no text in it" + ("; a scan needs OCR first" if data[:4] == b"%PDF" else ""))
    return text


def decode(data: bytes, shown: str) -> str:
    """Bytes as UTF-8 (or as their byte-order mark says). Some invalid bytes: a warning; many, or NULs: FormatError."""
    encoding, start = next(((name, len(bom)) for bom, name in _BOMS if data.startswith(bom)), ("utf-8", 0))
    if encoding == "utf-8" and b"\0" in data:
        raise FormatError(f"{shown} is binary (it has NUL bytes), not text, Markdown, HTML or PDF")
    try:
        return data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        text = data[start:].decode(encoding, errors="replace")
        count = text.count("\ufffd")
        where = f"the first at byte {error.start + start}"
        if count > _MOST_REPLACED * len(text):
            raise FormatError(
                f"{shown} is not {encoding} text: {count} invalid bytes, {where}; convert it first"
            ) from None
        log.warning("%s: %d invalid %s bytes were replaced, %s", shown, count, encoding, where)
        return text


def read_bytes(path: Path) -> bytes:
    """The bytes of a document. Raises UsageError where there is no such file, FormatError where it can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no document {path}; check the path") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; name the documents in it") from None
    except OSError as error:
        raise FormatError(f"{path} can't be read: {error.strerror}; check the file and your rights") from error


def _plain_text(path: Path, data: bytes) -> str:
    text = decode(data, str(path))
    if path.suffix.lower() in _HTML or re.match(r"\s*<(!doctype html|html)\b", text[:1000], re.IGNORECASE):
        return html_text(text)
    return text.replace("\r\n", "\n")


def html_text(html: str) -> str:
    """The readable text of a page: no scripts, styles, or hidden parts; one line for each block."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for tag in soup(["script", "style", "template", "noscript", "svg", "head"]):
        tag.decompose()
    for tag in soup.find_all(_BLOCKS):
        tag.insert_before("\n")
        tag.insert_after("\n")
    for tag in soup.find_all("br"):
        tag.replace_with("\n")
    return _tidy(soup)


_BLOCKS = [
    "address", "article", "aside", "blockquote", "dd", "div", "dl", "dt", "figure", "footer", "form", "h1", "h2", "h3",
    "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "tr", "ul",
]  # fmt: skip


def _tidy(soup: object) -> str:
    """Text of all strings; spaces collapse outside of ``pre``, at most one empty line in a row."""
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString, PreformattedString

    assert isinstance(soup, BeautifulSoup)
    pieces = []
    for string in soup.find_all(string=True):
        if isinstance(string, PreformattedString) or not isinstance(string, NavigableString):
            continue
        text = str(string)
        keep = text == "\n" or string.find_parent("pre") is not None
        pieces.append(text if keep else re.sub(r"\s+", " ", text))
    lines = (line.rstrip() if line.startswith("  ") else line.strip() for line in "".join(pieces).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _pdf_text(path: Path, data: bytes) -> str:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise FormatError(f"{path} is encrypted; remove its password first")
        pages = [page.extract_text() for page in reader.pages]
    except FormatError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as error:
        raise FormatError(f"{path} is a damaged PDF ({type(error).__name__}: {error}); save it again") from error
    empty = sum(not page.strip() for page in pages)
    if empty and empty < len(pages):
        log.warning("%s: %d of %d pages have no text (scans?) and were left out", path, empty, len(pages))
    return "\n\n".join(page.strip() for page in pages if page.strip()) + "\n"
