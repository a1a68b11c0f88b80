"""Runs over many files: the same bytes by any runner, after kill -9, and with every rejected document accounted for."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from whimbrel.data.document import Document, Drop, Keep, Verdict
from whimbrel.data.filters.gopher import GopherQuality
from whimbrel.data.filters.quality import SCORE, Quality
from whimbrel.data.reading.files import find
from whimbrel.data.reading.read import read
from whimbrel.data.running.local import LocalRunner
from whimbrel.data.running.plan import Plan
from whimbrel.data.running.run import Progress, run
from whimbrel.data.scoring.classifier import QualityClassifier
from whimbrel.errors import FormatError, UsageError, WriteError

pytest.importorskip("orjson", reason="needs the extra [data]")


class Short:
    """Drop texts with a digit, shorten the others."""

    def __repr__(self) -> str:
        return "Short()"

    def __call__(self, document: Document) -> Verdict:
        if any(map(str.isdigit, document.text)):
            return Drop("digit", {"length": len(document.text)})
        return Keep(text=document.text.strip(), notes={"seen": True})


@pytest.fixture
def corpus(tmp_path: Path, clean: list[str], noisy: list[str]) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = [text for pair in zip(clean, noisy, strict=True) for text in pair]
    for shard in range(6):
        part = [*texts[shard * 40 : shard * 40 + 40], texts[shard], "", texts[7] + " and a tail"]
        rows = [json.dumps({"id": f"{shard}-{i}", "text": text, "source": "t"}) for i, text in enumerate(part)]
        (folder / f"{shard}.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """What a run wrote, times aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "times.json"
    }


def plan(corpus: Path, output: Path, **options: Any) -> Plan:
    return Plan(inputs=tuple(find([str(corpus)])), output=output, **{"filters": (Short(),), **options})


def test_every_document_is_kept_or_has_a_reason(corpus: Path, tmp_path: Path) -> None:
    total = run(plan(corpus, tmp_path / "out", keep_rejected=True), LocalRunner(1))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert total.documents == 6 * 43 == total.kept + sum(total.reasons.values())
    assert report["reasons"] == total.reasons and total.reasons["empty"] == 6
    assert len(report["samples"]["digit"]) == 3
    kept = [document for file in find([str(tmp_path / "out" / "*.zst")]) for document in read(file)]
    rejected = [document for file in find([str(tmp_path / "out" / "rejected")]) for document in read(file)]
    assert len(kept) == total.kept and len(rejected) == total.documents - total.kept
    assert kept[0].metadata == {"source": "t", "seen": True}
    assert {document.metadata["reason"] for document in rejected} == {"digit", "empty"}


@pytest.mark.parametrize("options", [{}, {"dedup": "minhash"}, {"format": "parquet"}, {"format": "jsonl.gz"}])
def test_two_processes_write_what_one_does(corpus: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    shown: list[Progress] = []
    run(plan(corpus, tmp_path / "one", **options), LocalRunner(1))
    run(plan(corpus, tmp_path / "two", **options), LocalRunner(2), shown.append)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert shown[-1].files == 6 and shown[-1].seconds_left == 0


def test_copies_are_dropped_and_the_first_stays(corpus: Path, tmp_path: Path) -> None:
    exact = run(plan(corpus, tmp_path / "exact", filters=(), dedup="exact"), LocalRunner(1))
    near = run(plan(corpus, tmp_path / "near", filters=(), dedup="minhash", keep_rejected=True), LocalRunner(1))
    assert near.reasons["duplicate"] > exact.reasons["duplicate"] >= 6
    assert near.documents == near.kept + sum(near.reasons.values())
    first = next(read(find([str(tmp_path / "near" / "00000.jsonl.zst")])[0]))
    assert first.id == "0-0"


def test_scores_are_stored_and_thresholds_chosen_later(corpus: Path, tmp_path: Path, model: Path, bpe: Path) -> None:
    classifier = QualityClassifier(model, bpe)
    total = run(plan(corpus, tmp_path / "all", filters=(Quality(classifier, None),)), LocalRunner(2))
    assert total.tokens > 1000 and set(total.reasons) == {"empty"}
    documents = [document for file in find([str(tmp_path / "all" / "*.zst")]) for document in read(file)]
    want = sum(document.metadata[SCORE] >= 0.5 for document in documents)
    half = run(plan(corpus, tmp_path / "half", filters=(Quality(classifier, 0.5),)), LocalRunner(2))
    assert half.kept == want and 0 < want < len(documents)


def test_token_shards(corpus: Path, tmp_path: Path, bpe: Path) -> None:
    from whimbrel.data.scoring.pieces import Pieces
    from whimbrel.formats.shards import open_shards

    pieces = Pieces.open(bpe)
    made = plan(corpus, tmp_path / "out", format="shards", shard_tokenizer=str(bpe))
    total = run(made, LocalRunner(1))
    shards = open_shards(sorted((tmp_path / "out").glob("*.shard")), vocabulary=pieces.fingerprint)
    assert sum(shard.header.documents for shard in shards) == total.kept
    ids = shards[0][0].tolist()
    text = next(read(find([str(corpus / "0.jsonl")])[0])).text
    if not any(map(str.isdigit, text)):
        assert "".join(pieces.strings[i] for i in ids) == text.strip() + "<|endoftext|>"


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_data_pipeline import Short, plan
from whimbrel.data.running.local import LocalRunner
from whimbrel.data.running.run import run

from whimbrel.data.running.tally import Tally
keeps = Tally.keeps

def slowly(self, document):
    time.sleep(0.005)
    keeps(self, document)

Tally.keeps = slowly
run(plan(Path(sys.argv[1]), Path(sys.argv[2]), dedup="minhash", keep_rejected=True), LocalRunner(2))
"""


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dedup": "minhash", "keep_rejected": True}
    run(plan(corpus, tmp_path / "calm", **options), LocalRunner(1))
    command = [sys.executable, "-c", SCRIPT, str(corpus), str(tmp_path / "torn"), str(Path(__file__).parent)]
    for wanted in (1, 3, 7):  # while filtering, and while writing
        process = subprocess.Popen(command, start_new_session=True)
        state = tmp_path / "torn" / ".state"
        deadline = time.monotonic() + 60
        while len(list(state.glob("*.json"))) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "torn" / "report.json").exists()
    done = {path.name: path.stat().st_mtime_ns for path in state.glob("*.json")}
    run(plan(corpus, tmp_path / "torn", **options), LocalRunner(2))
    assert all((state / name).stat().st_mtime_ns == when for name, when in done.items()), (
        "finished tasks are not repeated"
    )
    assert files(tmp_path / "calm") == files(tmp_path / "torn")


def test_a_worker_that_is_killed_ends_the_run_with_advice(corpus: Path, tmp_path: Path) -> None:
    from whimbrel.errors import WhimbrelError

    with pytest.raises(WhimbrelError, match="goes on"):
        run(plan(corpus, tmp_path / "out", filters=(Deadly(),)), LocalRunner(2))


class Deadly(Short):
    """As a worker dies that the system kills for want of memory."""

    def __call__(self, document: Document) -> Verdict:
        if document.id.startswith("3-"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(document)


def test_a_full_disk_names_the_file_and_leaves_none(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whimbrel.data import writing

    class Full(writing._Lines):
        def add(self, document: Document) -> None:
            if document.id.startswith("1-2"):
                raise OSError(errno.ENOSPC, "No space left on device")
            super().add(document)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_Lines", Full)
        with pytest.raises(WriteError, match=r"00001\.jsonl\.zst.*No space left"):
            run(plan(corpus, tmp_path / "out"), LocalRunner(1))
    assert not list((tmp_path / "out").rglob("*.part")) and not (tmp_path / "out" / "00001.jsonl.zst").exists()
    run(plan(corpus, tmp_path / "out"), LocalRunner(1))
    run(plan(corpus, tmp_path / "calm"), LocalRunner(1))
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_faults_are_in_the_report_and_strict_runs_stop(corpus: Path, tmp_path: Path) -> None:
    with (corpus / "2.jsonl").open("ab") as file:
        file.write(b"\xff\n{\n")
    total = run(plan(corpus, tmp_path / "out"), LocalRunner(2))
    assert total.fault_count == 2 and total.faults[0]["file"].endswith("2.jsonl") and total.documents == 6 * 43
    with pytest.raises(FormatError, match=r"2\.jsonl, byte \d+"):
        run(plan(corpus, tmp_path / "strict", strict=True), LocalRunner(1))


def test_a_folder_with_another_run_is_refused(corpus: Path, tmp_path: Path) -> None:
    run(plan(corpus, tmp_path / "out"), LocalRunner(1))
    with pytest.raises(UsageError, match="other inputs or options"):
        run(plan(corpus, tmp_path / "out", filters=(GopherQuality(),)), LocalRunner(1))
    with pytest.raises(UsageError, match="other files"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("x")
        run(plan(corpus, tmp_path / "mine"), LocalRunner(1))
    with pytest.raises(UsageError, match="output folder"):
        plan(corpus, corpus)
