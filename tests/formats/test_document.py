"""Documents to text: every kind, and everything that can be wrong with a file."""

import io
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfWriter

from whimbrel.errors import FormatError, UsageError, WhimbrelError
from whimbrel.formats.document import decode, html_text, read_document


def document(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def pdf(*pages: str) -> bytes:
    """A minimal PDF with one line of text on each page."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode() if text else b""
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R /Resources << /Font << /F1"
            b" << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(out + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start))


def test_text_and_markdown_stay_as_they_are(tmp_path: Path) -> None:
    text = "# Title\n\n* a <b> & c\n    code\n"
    assert read_document(document(tmp_path, "a.md", text.encode())) == text
    assert read_document(document(tmp_path, "a", text.replace("\n", "\r\n").encode())) == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    assert read_document(document(tmp_path, "a.txt", "Grüße, 世界".encode(encoding))) == "Grüße, 世界"


def test_html_keeps_what_is_read_and_the_lines_it_stands_in() -> None:
    page = """<!DOCTYPE html><html><head><title>t</title><style>p {}</style></head><body><script>x()</script>
    <h1>Big   news</h1><p>One <b>bold</b> word,<br>and more.</p><ul><li>first</li><li>second</li></ul>
    <pre>  a
    b</pre><!-- hidden --></body></html>"""
    assert html_text(page).split("\n") == [
        "Big news", "", "One bold word,", "and more.", "", "first", "", "second", "", "  a", "    b", "",
    ]  # fmt: skip


def test_html_is_known_by_its_first_tag_or_its_name(tmp_path: Path) -> None:
    assert read_document(document(tmp_path, "page", b"<html><p>hello</p></html>")) == "hello\n"
    assert read_document(document(tmp_path, "page.htm", b"<p>hello</p>")) == "hello\n"
    assert read_document(document(tmp_path, "page.txt", b"<p>hello</p>")) == "<p>hello</p>"


def test_pdf(tmp_path: Path) -> None:
    assert (
        read_document(document(tmp_path, "a.pdf", pdf("Hello there", "Second page"))) == "Hello there\n\nSecond page\n"
    )


def test_pdf_pages_without_text_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_document(document(tmp_path, "a.pdf", pdf("Hello there", ""))) == "Hello there\n"
    assert "1 of 2 pages have no text" in caplog.text
    with pytest.raises(FormatError, match="OCR"):
        read_document(document(tmp_path, "b.pdf", pdf("")))


def test_damaged_and_encrypted_pdf(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="damaged PDF"):
        read_document(document(tmp_path, "a.pdf", b"%PDF-1.4\nnothing of it"))
    writer, buffer = PdfWriter(), io.BytesIO()
    writer.add_blank_page(10, 10)
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(buffer)
    with pytest.raises(FormatError, match="encrypted|damaged"):
        read_document(document(tmp_path, "b.pdf", buffer.getvalue()))


def test_a_few_invalid_bytes_are_replaced_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        text = read_document(document(tmp_path, "a.txt", b"word " * 40 + b"\xff end"))
    assert text.endswith("\ufffd end")
    assert "1 invalid utf-8 bytes were replaced, the first at byte 200" in caplog.text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"\x7fELF\x00\x01\x02", "binary"),
        ("Ärger überall, und öfter".encode("latin-1"), "not utf-8"),
        (b"<html><script>only()</script></html>", "no text"),
    ],
)
def test_files_without_text(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        read_document(document(tmp_path, "a.txt", data))


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no document"):
        read_document(tmp_path / "absent.txt")
    with pytest.raises(UsageError, match="folder"):
        read_document(tmp_path)


@given(st.binary(max_size=300))
def test_any_bytes_are_text_or_one_plain_error(data: bytes) -> None:
    try:
        decode(data, "x").encode("utf-8", "surrogatepass")
    except WhimbrelError as error:
        assert "x" in str(error)


@given(st.text(max_size=300))
def test_any_html_becomes_text(html: str) -> None:
    assert html_text(html).endswith("\n")
