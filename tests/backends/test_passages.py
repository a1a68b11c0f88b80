"""What an answer read: blocks to characters, joined neighbours, the strip."""

from pathlib import Path

import pytest

from whimbrel.attention.sparse import SparseConfig
from whimbrel.backends.llm import LLM
from whimbrel.backends.passages import Span, best_passages, eligible, find_spans, heat_strip
from whimbrel.testing.tiny import write_checkpoint


class Bytes:
    """A tokenizer of single bytes."""

    def token_bytes(self, id: int) -> bytes:
        return bytes([id])


def spans_of(prompt: str, **documents: str) -> list[Span]:
    return find_spans(Bytes(), list(prompt.encode()), documents)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["", "Q: ", "x" * 64, "y" * 200])
@pytest.mark.parametrize("text", ["a" * 10, "".join(chr(97 + i % 26) for i in range(300)), "äöü€" * 60])
def test_spans_cover_each_document_once_and_in_order(head: str, text: str) -> None:
    found = spans_of(head + text + "?" * 70, doc=text)
    assert "".join(text[span.start : span.end] for span in found) == text
    for span in found:
        byte = len(head.encode()) + len(text[: span.start].encode())
        assert span.block == byte // 64


def test_two_documents_that_share_a_block() -> None:
    one, two = "1" * 100, "2" * 100
    found = spans_of(one + "\n" + two, one=one, two=two)
    assert [(span.block, span.document) for span in found] == [
        (0, "one"),
        (1, "one"),
        (1, "two"),
        (2, "two"),
        (3, "two"),
    ]


def test_equal_documents_are_told_apart_by_their_order() -> None:
    found = spans_of("same" * 40 + "--" + "same" * 40, a="same" * 40, b="same" * 40)
    assert max(span.block for span in found if span.document == "a") <= min(
        span.block for span in found if span.document == "b"
    )


def test_a_document_that_the_tokenizer_changed_has_no_spans() -> None:
    assert spans_of("lower case", doc="Lower Case") == []


def test_first_blocks_and_the_window_are_left_out() -> None:
    spans = [Span(block, "d", 64 * block, 64 * block + 64) for block in range(300)]
    assert [span.block for span in eligible(spans, 300 * 64, None)] == list(range(1, 298))
    assert [span.block for span in eligible(spans, 300 * 64, SparseConfig(init_blocks=2))] == list(range(2, 299 - 32))
    short = SparseConfig(dense_len=100_000)
    assert len(eligible(spans, 300 * 64, short)) == 297


def test_the_best_passages_come_first_and_neighbours_are_one() -> None:
    text = "".join(chr(97 + i % 26) for i in range(640))
    spans = [Span(block, "d", 64 * block, 64 * block + 64) for block in range(10)]
    shares = [0.4, 0.0, 0.1, 0.05, 0.0, 0.0, 0.12, 0.0, 0.01, 0.32]
    first, second = best_passages(shares, spans[1:9], {"d": text}, 3)
    assert (first.start, first.end, first.score) == (128, 256, pytest.approx(0.15))
    assert (second.start, second.end, second.score) == (384, 448, pytest.approx(0.12))
    assert first.text == text[128:256]
    assert best_passages([0.0] * 10, spans, {"d": text}, 3) == ()


def test_heat_strip() -> None:
    spans = [Span(block, "d", block, block + 1) for block in range(8)]
    assert heat_strip([0, 0, 0.8, 0, 0, 0, 0, 0.4], spans, 80) == "  █    ▄"
    assert heat_strip([0, 0, 0.8, 0, 0, 0, 0, 0.4], spans, 4) == " █ ▄"
    assert heat_strip([0] * 8, spans, 4) == "    "
    assert heat_strip([], [], 10) == ""


def test_an_answer_about_a_kept_document_tells_what_it_read(tmp_path: Path) -> None:
    pytest.importorskip("whimbrel._native")
    checkpoint = write_checkpoint(tmp_path / "tiny")
    source = tmp_path / "report.txt"
    source.write_text(" ".join(f"The value of item {i} is {i * 37 % 101}." for i in range(60)))
    with LLM(checkpoint, context=2048, attention="dense") as llm:
        path = llm.read_document(source).path
        with llm.open_document(path) as document:
            plain = document.ask("How much is item 7?", max_tokens=12, ignore_eos=True)
            told = document.ask("How much is item 7?", max_tokens=12, ignore_eos=True, passages=3)
    assert plain.passages == () and plain.block_mass == ()
    assert told.token_ids == plain.token_ids
    assert sum(told.block_mass) == pytest.approx(1)
    assert told.passages
    for passage in told.passages:
        assert passage.document == "report.txt"
        assert source.read_text()[passage.start : passage.end] == passage.text
        assert 0 < passage.score < 1
    assert list(told.passages) == sorted(told.passages, key=lambda passage: -passage.score)
