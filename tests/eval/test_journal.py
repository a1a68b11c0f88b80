"""Journals: an evaluation goes on where it was stopped, and never mixes two."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whimbrel.backends.executor import Request
from whimbrel.errors import FormatError, UsageError
from whimbrel.eval import niah
from whimbrel.eval.haystack import Haystack
from whimbrel.eval.journal import Journal
from whimbrel.eval.prompt import Prompter
from whimbrel.eval.record import run
from whimbrel.eval.task import Item

ABOUT = {"model": "m", "seed": 0, "sparse": {"topk": 8}, "names": ("a", "b")}


@pytest.fixture(scope="module")
def items(prompter: Prompter, haystack: Haystack) -> list[Item]:
    return list(niah.items(prompter, haystack, lengths=[200, 300], depths=[0.0, 1.0]))


def test_an_interrupted_run_goes_on(tmp_path: Path, items: list[Item], llm_that: Callable[..., Any]) -> None:
    path = tmp_path / "folder" / "grid.jsonl"
    asked: list[Request] = []

    def interrupted(request: Request) -> str:
        asked.append(request)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return f"answer {len(asked)}"

    with pytest.raises(KeyboardInterrupt):
        run(llm_that(interrupted), items, Journal(path, ABOUT))
    assert len(path.read_text().splitlines()) == 3, "a head and two records"
    journal = Journal(path, ABOUT)
    assert len(journal) == 2
    records = run(llm_that(interrupted), items, journal)
    assert [record.id for record in records] == [item.id for item in items]
    assert [record.answer for record in records] == ["answer 1", "answer 2", "answer 4", "answer 5"]
    assert run(llm_that(interrupted), items, Journal(path, ABOUT)) == records
    assert len(asked) == 5, "nothing was asked twice"


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path, items: list[Item], llm_that: Callable[..., Any]) -> None:
    path = tmp_path / "grid.jsonl"
    run(llm_that(lambda request: "x"), items[:2], Journal(path, ABOUT))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(Journal(path, ABOUT)) == 1
    run(llm_that(lambda request: "x"), items[:2], Journal(path, ABOUT))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("id") for line in lines] == [None, items[0].id, items[1].id]


def test_records_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "grid.jsonl"
    Journal(path, ABOUT)
    with pytest.raises(UsageError, match=r"another evaluation \(seed 0, not 1\); take another --output"):
        Journal(path, {**ABOUT, "seed": 1})
    with pytest.raises(UsageError, match="topk"):
        Journal(path, {**ABOUT, "sparse": {"topk": 9}})


def test_another_commit_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "grid.jsonl"
    Journal(path, ABOUT, commit="abc")
    Journal(path, ABOUT, commit="abc")
    assert not caplog.records
    Journal(path, ABOUT, commit="def")
    assert "was begun at commit abc; this is def" in caplog.text


@pytest.mark.parametrize("content", ["hello\n", '{"id": 1}\n', "[]\n", '{"journal": 1, "identity": {}}\n{"id": "x"}\n'])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "grid.jsonl"
    path.write_text(content)
    with pytest.raises(FormatError, match="holds no records of an evaluation"):
        Journal(path, ABOUT)
    assert path.read_text() == content


def test_without_a_path_nothing_is_written(items: list[Item], llm_that: Callable[..., Any]) -> None:
    journal = Journal()
    run(llm_that(lambda request: "x"), items[:1], journal)
    assert journal.get(items[0].id) is not None and journal.path is None
