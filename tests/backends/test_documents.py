"""Documents that are read once: the file, what is resumed, what is asked of it, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from whimbrel.backends.document import settings_for
from whimbrel.backends.llm import LLM
from whimbrel.backends.stored import StoredDocument
from whimbrel.errors import FormatError, PromptTooLong, UnsupportedCapability, UsageError, WriteError
from whimbrel.formats.kv_file import KVFile
from whimbrel.formats.kv_writer import KVWriter, part_of
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

WHY_NO_NATIVE = dispatch.get("attend").why_not("native")
pytestmark = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))

OPTIONS: dict[str, Any] = {"context": 1024, "prefill_chunk": 128, "threads": 1}
QUESTION = "What does the whimbrel eat?"


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    with LLM(checkpoint, **OPTIONS) as model:
        yield model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """About 500 tokens; a character of several bytes and several tokens among them."""
    path = tmp_path / "birds.txt"
    path.write_text("\n  " + " ".join(f"{i} 鷸: {tiny.TEXT}" for i in range(4)) + "\n\n", encoding="utf-8")
    return path


def test_a_document_is_read_once_and_asked_without_reading(llm: LLM, source: Path) -> None:
    steps: list[tuple[int, int]] = []
    reading = llm.read_document(source, progress=lambda done, total: steps.append((done, total)))
    assert reading.path == source.with_suffix(".kv") and reading.file_bytes == reading.path.stat().st_size
    assert reading.blocks == reading.tokens // 64 and not part_of(reading.path).exists()
    assert steps == sorted(steps) and steps[-1][0] == reading.blocks * 64 and steps[-1][1] == reading.tokens
    KVFile(reading.path).check()
    with llm.open_document(reading.path) as document:
        kept = document.ask(QUESTION, max_tokens=40)
        prompt = document.prompt(QUESTION)
    assert kept.usage.cached_tokens == reading.blocks * 64
    with LLM(llm.source, **OPTIONS, prefix_sharing=False) as fresh:
        expected = fresh.stream_ids(prompt.ids, max_tokens=40).drain()
    assert kept.token_ids == expected.token_ids and expected.usage.cached_tokens == 0


def test_the_prompt_is_the_one_that_the_template_makes(llm: LLM, source: Path) -> None:
    with llm.open_document(llm.read_document(source, system="Be brief.").path) as document:
        text = llm.detokenize(document.prompt(QUESTION).ids)
        assert document.system == "Be brief."
    said = f"{source.read_text(encoding='utf-8').strip()}\n\n---\n\n{QUESTION}"
    assert text == llm.render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": said}])


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
def test_a_small_cache_is_enough_for_a_question(checkpoint: Path, source: Path, kv_dtype: str) -> None:
    with LLM(checkpoint, **OPTIONS, kv_dtype=kv_dtype) as large:
        path = large.read_document(source).path
        with large.open_document(path) as document:
            expected = document.ask(QUESTION, max_tokens=30)
    options = settings_for([path])
    assert options["kv_dtype"] == kv_dtype and options["context"] == 1024
    with LLM(checkpoint, **options, prefill_chunk=128) as small, small.open_document(path) as document:
        assert document.ask(QUESTION, max_tokens=30).token_ids == expected.token_ids
        assert small.executor.stats.blocks <= 1024 // 64 + 1 - document.parts[0].num_blocks  # type: ignore[attr-defined]


def test_every_character_is_in_the_block_that_its_token_is_in(llm: LLM, source: Path) -> None:
    with llm.open_document(llm.read_document(source).path) as document:
        prompt = document.prompt(QUESTION)
        spans = document.spans(prompt)
        (text,) = document.texts().values()
    assert text == source.read_text(encoding="utf-8").strip()
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert [span.block for span in spans] == list(range(len(document.parts[0].ids) // 64 + 1))
    for span in spans:
        ids = prompt.ids[span.block * 64 : (span.block + 1) * 64]
        passage = text[span.start : span.end]
        assert passage.strip("鷸") in llm.detokenize(ids)
        assert document.passage(span.block) == (span.start, span.end)
    assert document.passage(99) == (len(text), len(text))


def test_reading_again_changes_nothing(llm: LLM, source: Path) -> None:
    reading = llm.read_document(source)
    before = reading.path.read_bytes()
    again = llm.read_document(source)
    assert again.already and again.path.read_bytes() == before
    source.write_text("Something else. " * 50)
    assert not llm.read_document(source).already  # the same place, another text: replaced


def test_a_short_document_has_no_blocks(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A bird.")
    reading = llm.read_document(tmp_path / "short.txt")
    assert reading.blocks == 0
    with llm.open_document(reading.path) as document:
        assert document.ask(QUESTION, max_tokens=4).usage.completion_tokens == 4
        assert [span.block for span in document.spans(document.prompt(QUESTION))] == [0]


def test_it_is_read_as_standard_input_too(llm: LLM, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out"):
        llm.read_document("standard input", data=source.read_bytes())
    out = tmp_path / "piped.kv"
    llm.read_document("standard input", out, data=source.read_bytes())
    one, two = (StoredDocument(path) for path in (out, llm.read_document(source).path))
    assert (one.ids == two.ids).all() and one.meta["source"]["path"] is None
    assert bytes(one.file.data) == bytes(two.file.data)


def test_a_closed_document_says_so(checkpoint: Path, source: Path) -> None:
    with LLM(checkpoint, **OPTIONS) as llm:
        document = llm.open_document(llm.read_document(source).path)
        stream = document.stream(QUESTION, max_tokens=4)
        next(stream)
        with pytest.raises(UsageError, match="still reads this document"):
            document.close()
        stream.close()
        document.close()
        document.close()
        with pytest.raises(UsageError, match="has been closed"):
            document.ask(QUESTION)
        document = llm.open_document(document.parts[0].path)
    document.close()  # after its model


# --- interrupted


def interrupted(llm: LLM, source: Path, out: Path, tokens: int) -> None:
    """Read until so many tokens are done."""

    def stop(done: int, total: int) -> None:
        if done >= tokens:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm.read_document(source, out, progress=stop)


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
@pytest.mark.parametrize("tokens", [64, 192, 320])
def test_an_interrupted_reading_goes_on_to_the_same_bits(
    checkpoint: Path, source: Path, tmp_path: Path, kv_dtype: str, tokens: int
) -> None:
    out = tmp_path / "resumed.kv"
    with LLM(checkpoint, **OPTIONS, kv_dtype=kv_dtype) as llm:
        whole = StoredDocument(llm.read_document(source).path)
    with LLM(checkpoint, **OPTIONS | {"prefill_chunk": 64}, kv_dtype=kv_dtype) as llm:
        interrupted(llm, source, out, tokens)
    with pytest.raises(UsageError, match="there is no"):
        StoredDocument(out)
    with LLM(checkpoint, **OPTIONS, kv_dtype=kv_dtype) as llm:
        reading = llm.read_document(source, out)
    resumed = StoredDocument(out)
    assert reading.resumed_blocks == tokens // 64
    assert bytes(resumed.file.data) == bytes(whole.file.data) and bytes(resumed.file.codes) == bytes(whole.file.codes)


KILLED = """
import os, signal, sys
from whimbrel.backends import reading
from whimbrel.backends.llm import LLM
reading.COMMIT_SECONDS = 0.0
def progress(done, total):
    if done >= 256:
        os.kill(os.getpid(), signal.SIGKILL)
LLM(sys.argv[1], context=1024, prefill_chunk=64, threads=1).read_document(sys.argv[2], progress=progress)
"""


def test_a_killed_reading_goes_on(llm: LLM, source: Path) -> None:
    command = [sys.executable, "-c", KILLED, llm.source, str(source)]
    killed = subprocess.run(command, check=False, timeout=60, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    out = source.with_suffix(".kv")
    assert part_of(out).exists() and not out.exists()
    reading = llm.read_document(source)
    assert reading.resumed_blocks == 3  # the fourth was appended, and not committed
    whole = llm.read_document(source, source.with_name("whole.kv"))
    assert bytes(KVFile(reading.path).data) == bytes(KVFile(whole.path).data)


FULL = """
import resource, sys
from whimbrel.backends.llm import LLM
from whimbrel.errors import WriteError
llm = LLM(sys.argv[1], context=1024, prefill_chunk=64, threads=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    llm.read_document(sys.argv[2])
except WriteError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_can_be_gone_on_with(llm: LLM, source: Path) -> None:
    other = llm.read_document(source, source.with_name("other.kv"))
    limit = other.file_bytes - 2 * KVFile(other.path).layout.block_bytes
    command = [sys.executable, "-c", FULL, llm.source, str(source), str(limit)]
    said = subprocess.run(command, check=True, timeout=60, capture_output=True).stdout.decode()
    assert said.startswith("the disk is full; ") and said.count("\n") == 1 and "run the same command again" in said
    reading = llm.read_document(source)
    assert reading.resumed_blocks == other.blocks - 2
    assert bytes(KVFile(reading.path).data) == bytes(KVFile(other.path).data)


def test_too_little_room_is_said_before_anything_is_read(
    llm: LLM, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(source.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(WriteError, match=r"takes \d+ MB and 0 MB are free"):
        llm.read_document(source)
    assert not part_of(source.with_suffix(".kv")).exists()


@pytest.mark.parametrize("change", ["document", "model", "kv_dtype", "system message"])
def test_the_beginning_of_something_else_is_not_gone_on_with(
    llm: LLM, checkpoint: Path, source: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out.kv"
    interrupted(llm, source, out, 256)
    part = part_of(out).read_bytes()
    options: dict[str, Any] = {"kv_dtype": "q8"} if change == "kv_dtype" else {}
    if change == "document":
        source.write_text(source.read_text(encoding="utf-8") + "more", encoding="utf-8")
    if change == "model":
        checkpoint = tiny.write_checkpoint(tmp_path / "other", "llama", seed=3)
    system = "Other." if change == "system message" else None
    expected = pytest.raises(UsageError, match=f"beginning of something else.*{change}")
    with LLM(checkpoint, **OPTIONS, **options) as other, expected:
        other.read_document(source, out, system=system)
    assert part_of(out).read_bytes() == part


# --- sparse attention


SPARSE: dict[str, Any] = {
    "attention": "sparse",
    "sparse": {"dense_len": 128, "topk": 2, "window_size": 64, "init_blocks": 1},
}


@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
def test_sparse_documents_keep_their_semantic_kernels(checkpoint: Path, source: Path, kv_dtype: str) -> None:
    options = OPTIONS | SPARSE | {"kv_dtype": kv_dtype}
    out = source.with_name("resumed.kv")
    with LLM(checkpoint, **options) as llm:
        reading = llm.read_document(source)
        interrupted(llm, source, out, 320)
    with LLM(checkpoint, **options) as llm:
        assert llm.read_document(source, out).resumed_blocks >= 5
    whole, resumed = (KVFile(path) for path in (reading.path, out))
    assert whole.codes.size and bytes(whole.codes) == bytes(resumed.codes)
    assert bytes(whole.scales) == bytes(resumed.scales) and bytes(whole.data) == bytes(resumed.data)
    whole.check()
    with LLM(checkpoint, **settings_for([out]), prefill_chunk=128) as llm, llm.open_document(out) as document:
        answer = document.ask(QUESTION, max_tokens=40)
        ids = document.prompt(QUESTION).ids
    assert answer.usage.completion_keys.sparsity
    with LLM(checkpoint, **options, prefix_sharing=False) as llm:
        assert llm.stream_ids(ids, max_tokens=40).drain().token_ids == answer.token_ids
    with LLM(checkpoint, **OPTIONS, kv_dtype=kv_dtype) as dense, pytest.raises(UsageError, match="another attention"):
        dense.open_document(out)


# --- refused


def test_other_models_and_settings_are_refused(checkpoint: Path, llm: LLM, source: Path, tmp_path: Path) -> None:
    path = llm.read_document(source).path
    other = tiny.write_checkpoint(tmp_path / "other", "llama", seed=3)
    for model, options, text in (
        (other, {}, "another model or quantization"),
        (checkpoint, {"weights": "q8"}, "another model or quantization"),
        (checkpoint, {"kv_dtype": "q8"}, "kv_dtype bf16, not q8"),
        (checkpoint, {"context": 2048}, "rotary embedding"),
        (checkpoint, {"context": 512}, "the context holds 512"),
    ):
        with LLM(model, **OPTIONS | options) as wrong, pytest.raises(UsageError, match=text):
            wrong.open_document(path)


def test_a_changed_document_is_refused_unless_asked_for(llm: LLM, source: Path) -> None:
    path = llm.read_document(source).path
    os.utime(source, (1, 1))
    llm.open_document(path).close()  # touched, not changed
    source.write_text("Other. " * 80)
    with pytest.raises(UsageError, match="has changed since"):
        llm.open_document(path)
    llm.open_document(path, stale=True).close()
    source.unlink()
    llm.open_document(path).close()


def test_a_document_as_long_as_the_context(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(tiny.TEXT * 20)
    with pytest.raises(PromptTooLong, match=r"long.txt has [\d,]+ tokens and the context holds 1,024"):
        llm.read_document(tmp_path / "long.txt")


def test_what_has_no_text(llm: LLM, tmp_path: Path) -> None:
    from pypdf import PdfWriter

    with (tmp_path / "scan.pdf").open("wb") as file:
        writer = PdfWriter()
        writer.add_blank_page(100, 100)
        writer.write(file)
    with pytest.raises(FormatError, match="has no text in it; a scan needs OCR"):
        llm.read_document(tmp_path / "scan.pdf")
    with pytest.raises(UsageError, match="there is no document"):
        llm.read_document(tmp_path / "none.pdf")


def test_files_of_others_are_not_overwritten(llm: LLM, source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.kv").write_text("my notes")
    with pytest.raises(UsageError, match="no document that was read"):
        llm.read_document(source, tmp_path / "mine.kv")
    other = tmp_path / "birds.md"
    other.write_text(tiny.TEXT * 2)
    llm.read_document(source)
    with pytest.raises(UsageError, match="holds .*birds.txt"):
        llm.read_document(other)


def test_damaged_files_are_refused(llm: LLM, source: Path, tmp_path: Path) -> None:
    path = llm.read_document(source).path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="damaged"):
        llm.open_document(path)
    with pytest.raises(FormatError, match="no document that was read"):
        llm.open_document(source)


def test_backends_without_blocks_refuse(checkpoint: Path, source: Path, scripted: Callable[..., LLM]) -> None:
    for llm in (scripted("yes"), LLM(checkpoint, ops="reference", context=512, kv_dtype="f32")):
        with pytest.raises(UnsupportedCapability, match="keeps no documents"):
            llm.read_document(source)


def test_a_file_that_claims_too_much(llm: LLM, source: Path, tmp_path: Path) -> None:
    good = StoredDocument(llm.read_document(source).path)
    sections = {name: good.file.section(name) for name in ("ids", "offsets", "text")}
    for name, meta, changed in (
        ("a", good.meta, sections | {"ids": sections["ids"][:400]}),
        ("b", json.loads(json.dumps(good.meta)) | {"prompt": {}}, sections),
    ):
        with KVWriter(tmp_path / f"{name}.kv", meta, changed, good.file.layout) as writer:
            for index in range(good.num_blocks):
                kernels = good.file.layout.kernels_of(good.file.codes, good.file.scales, index)
                writer.append(good.file.block(index), *kernels)
            writer.finish()
        with pytest.raises(FormatError, match="read the document again"):
            llm.open_document(tmp_path / f"{name}.kv")


# --- several


def test_several_documents_in_one_question(llm: LLM, source: Path, tmp_path: Path) -> None:
    other = tmp_path / "waders.md"
    other.write_text(tiny.TEXT * 2)
    paths = [llm.read_document(path).path for path in (source, other)]
    blocks = sum(StoredDocument(path).num_blocks for path in paths)
    with llm.open_document(*paths) as document:
        prompt = document.prompt(QUESTION)
        answer = document.ask(QUESTION, max_tokens=8)
        spans, texts = document.spans(prompt), document.texts()
    assert answer.usage.cached_tokens == blocks * 64 and len(answer.token_ids) == 8
    assert "Document waders.md, its end:" in llm.detokenize(prompt.ids)
    for name, text in texts.items():  # every character is somewhere, once
        assert sorted("".join(text[s.start : s.end] for s in spans if s.document == name)) == sorted(text)
    with llm.open_document(paths[0]) as document:
        assert document.ask(QUESTION, max_tokens=4).usage.cached_tokens == StoredDocument(paths[0]).num_blocks * 64


def test_documents_read_differently_are_not_asked_together(
    llm: LLM, checkpoint: Path, source: Path, tmp_path: Path
) -> None:
    one = llm.read_document(source).path
    with LLM(checkpoint, **OPTIONS, kv_dtype="q8") as model:
        two = model.read_document(source, tmp_path / "two.kv").path
    with pytest.raises(UsageError, match="read differently .kv_dtype bf16, not q8"):
        settings_for([one, two])
    three = llm.read_document(source, tmp_path / "three.kv", system="Be brief.").path
    with pytest.raises(UsageError, match="different system messages"):
        llm.open_document(one, three)
    long = tmp_path / "long.txt"
    long.write_text(tiny.TEXT * 8)
    with pytest.raises(PromptTooLong, match="or ask fewer at once"):
        llm.open_document(one, llm.read_document(long).path)
