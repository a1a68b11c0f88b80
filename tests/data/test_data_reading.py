"""Readers: every format gives the same documents, and every fault is named with its file and offset."""

import gzip
import io
import json
import lzma
import random
from pathlib import Path

import pytest

from whimbrel.data.document import Document
from whimbrel.data.reading.fault import Fault
from whimbrel.data.reading.files import Input, find, kind_of
from whimbrel.data.reading.jsonl import read_jsonl
from whimbrel.data.reading.read import read
from whimbrel.errors import FormatError, ModelNotFound, UsageError

pytest.importorskip("orjson", reason="needs the extra [data]")
TEXTS = ["first text", "second, with ünïcode", "third\nwith lines"]


def everything(path: Path, kind: str | None = None, column: str = "text") -> tuple[list[Document], list[Fault]]:
    faults: list[Fault] = []
    documents = [document for file in find([str(path)], kind) for document in read(file, column, faults.append)]
    return documents, faults


def lines(texts: list[str] = TEXTS) -> bytes:
    return b"".join(json.dumps({"id": i, "text": text, "n": i}).encode() + b"\n" for i, text in enumerate(texts))


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_json_lines_however_compressed(tmp_path: Path, suffix: str) -> None:
    import zstandard

    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack[suffix](lines()))
    documents, faults = everything(path)
    assert [document.text for document in documents] == TEXTS and not faults
    assert documents[1].id == "1" and documents[1].metadata == {"n": 1}
    assert documents[1].offset == len(lines(TEXTS[:1]))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_truncated_file_gives_what_is_whole_and_names_the_place(tmp_path: Path, suffix: str) -> None:
    import zstandard

    draw = random.Random(0)
    data = lines(["".join(draw.choices("abcdefghij", k=3000)) for _ in range(400)])
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}
    packed = pack[suffix](data)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    documents, faults = everything(path)
    assert 0 < len(documents) < 400
    assert len(faults) == 1 and faults[0].file == str(path) and faults[0].offset > 0
    with pytest.raises(FormatError, match="a.jsonl"):
        list(read(find([str(path)])[0]))


def test_broken_lines_cost_themselves(tmp_path: Path) -> None:
    good = lines()
    bad = [b'{"text": "\xff\xfe"}\n', b"{not json\n", b"[1]\n", b'{"body": "x"}\n', b'{"text": 5}\n', b"\n"]
    (tmp_path / "a.jsonl").write_bytes(good + b"".join(bad) + good)
    documents, faults = everything(tmp_path / "a.jsonl")
    assert len(documents) == 6 and len(faults) == 5
    assert faults[0].offset == len(good) and faults[1].offset == len(good) + len(bad[0])
    assert "no column 'text'; it has 'body'" in str(faults[3]) and "int" in str(faults[4])


def test_a_line_that_is_too_long_is_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines() + b'{"text": "' + b"x" * 5_000_000 + b'"}\n' + lines())
    faults: list[Fault] = []
    documents = list(read_jsonl(Input(str(path), "jsonl", 0), "text", faults.append, longest=1_000_000))
    assert len(documents) == 6 and len(faults) == 1
    assert faults[0].offset == len(lines()) and "5000013 bytes" in faults[0].problem


def test_parquet_and_a_column_that_is_missing(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"id": ["a", "b", "c"], "content": TEXTS, "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    documents, faults = everything(tmp_path / "a.parquet", column="content")
    assert [document.text for document in documents] == TEXTS and documents[2].metadata == {"n": 3}
    documents, faults = everything(tmp_path / "a.parquet")
    assert not documents and "no column 'text'; it has id, content, n" in str(faults[0])
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[: len(data) // 2])
    documents, faults = everything(tmp_path / "b.parquet", column="content")
    assert not documents and "b.parquet" in str(faults[0])


def test_text_folders_and_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("hello")
    (tmp_path / "b.txt").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "c.txt").write_bytes(b"latin \xe9")
    (tmp_path / "d.png").write_bytes(b"\x89PNG")
    documents, faults = everything(tmp_path)
    assert [document.text for document in documents] == ["hello"]
    assert {(Path(fault.file).name, fault.offset) for fault in faults} == {("b.txt", 4), ("c.txt", 6)}


def test_warc_and_wet(tmp_path: Path) -> None:
    warcio = pytest.importorskip("warcio.warcwriter")
    from warcio.statusandheaders import StatusAndHeaders

    page = (
        "<html><body><article><p>"
        + "A sentence of the page that is long enough. " * 20
        + "</p></article></body></html>"
    )
    with (tmp_path / "a.warc.gz").open("wb") as file:
        out = warcio.WARCWriter(file, gzip=True)
        headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.0")
        for name, data in (("http://a/", page.encode()), ("http://b/", b"\xff\xff\xfe")):
            out.write_record(out.create_warc_record(name, "response", payload=io.BytesIO(data), http_headers=headers))
        out.write_record(
            out.create_warc_record(
                "http://c/", "conversion", payload=io.BytesIO(b"plain text"), warc_content_type="text/plain"
            )
        )
    documents, faults = everything(tmp_path / "a.warc.gz")
    assert documents[0].text.startswith("A sentence") and documents[0].id == "http://a/"
    assert documents[1].text == "plain text" and len(faults) == 1 and faults[0].offset == 1
    data = (tmp_path / "a.warc.gz").read_bytes()
    (tmp_path / "b.warc.gz").write_bytes(data[:-20])
    assert everything(tmp_path / "b.warc.gz")[1]


def test_urls_of_fsspec(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines())
    files = find([f"file://{tmp_path}/*.jsonl"])
    assert [document.text for document in read(files[0])] == TEXTS
    assert files[0].size == len(lines())


def test_patterns_without_files_and_names_without_formats(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="none"):
        find([str(tmp_path / "none.jsonl")])
    (tmp_path / "data").write_text("x")
    with pytest.raises(UsageError, match="--kind"):
        find([str(tmp_path / "data")])
    assert kind_of("s3://b/c.jsonl.zst") == "jsonl" and kind_of("x.warc.wet.gz") == "warc"
