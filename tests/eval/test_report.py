"""Reports: means by hand, sparsity from key counts, a picture where matplotlib is, its name where it isn't."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from whimbrel.attention.keys import count_keys
from whimbrel.attention.sparse import SparseConfig
from whimbrel.backends.executor import Request, SamplingParams
from whimbrel.errors import MissingExtra, UsageError
from whimbrel.eval.heatmap import shade, write_png
from whimbrel.eval.record import Record, ask
from whimbrel.eval.report import cells, journal_path, report, save
from whimbrel.eval.task import Item, Question, any_of


def record(task: str, length: int, score: float, *, visible: int = 100, attended: int = 25) -> Record:
    return Record(
        id=f"{task}/{length}/{score}",
        task=task,
        length=length,
        score=score,
        expected=("a",),
        answer="b",
        prompt_tokens=length,
        completion_tokens=1,
        visible_keys=visible,
        attended_keys=attended,
        last_sparsity=0.5,
        seconds=0.1,
        metadata={"depth": 0.5},
    )


RECORDS = [record("x", 10, 1.0), record("x", 10, 0.0), record("x", 20, 0.5), record("y", 10, 1.0)]


def test_every_cell_counts_the_same() -> None:
    found = report("ruler", RECORDS, identity={"model": "m"}, row=lambda one: one.task, row_name="task")
    assert found["score"] == pytest.approx((50 + 50 + 100) / 3)
    assert found["table"] == [
        {"task": "x", "length": 10, "score": 50.0, "items": 2},
        {"task": "x", "length": 20, "score": 50.0, "items": 1},
        {"task": "y", "length": 10, "score": 100.0, "items": 1},
    ]
    assert found["by_length"][10] == {"score": 75.0, "items": 3, "sparsity": 0.75, "last_sparsity": 0.5}
    assert {"schema_version", "commit", "command", "machine", "isa", "model"} <= set(found)
    assert json.loads(json.dumps(found))["records"][0]["expected"] == ["a"]


def test_a_table_has_a_dash_where_nothing_was_asked() -> None:
    headings, rows = cells(RECORDS, lambda one: one.task, str)
    assert headings == ["", "10", "20"]
    assert rows[:2] == [["x", "50", "50"], ["y", "100", "-"]]
    assert rows[2:4] == [["mean", "75.0", "50.0"], ["keys not attended", "75.0%", "75.0%"]]


def test_sparsity_weighs_long_items_more() -> None:
    mixed = [record("x", 10, 1, visible=100, attended=100), record("x", 20, 1, visible=900, attended=400)]
    assert report("n", mixed, identity={}, row=lambda one: one.task, row_name="task")["sparsity"] == 0.5


@pytest.mark.parametrize("sparse", [None, SparseConfig(topk=4, window_size=128, dense_len=256)])
def test_keys_are_those_of_prompt_and_answer(llm_that, sparse: SparseConfig | None) -> None:  # type: ignore[no-untyped-def]
    llm = llm_that(lambda request: "four tokens of text")
    llm.executor.capabilities = replace(llm.executor.capabilities, sparse=sparse)
    question = Question(token_ids=tuple(range(5, 1005)), answers=("text",))
    item = Item(id="i", task="t", length=1000, max_tokens=50, score=any_of, make=lambda: question)
    found = ask(llm, item)
    assert found.score == 1
    expected = count_keys(0, 1000 + found.completion_tokens - 1, sparse)
    assert (found.visible_keys, found.attended_keys) == (expected.visible, expected.attended)
    # position 999: 5 whole blocks and the 40 keys of its own, of 1,000
    assert found.last_sparsity == pytest.approx(0 if sparse is None else 1 - (5 * 64 + 40) / 1000)


def test_answers_are_greedy_whatever_the_model_says(llm_that) -> None:  # type: ignore[no-untyped-def]
    seen: list[SamplingParams] = []

    def say(request: Request) -> str:
        seen.append(request.params)
        return "x"

    llm = llm_that(say)
    llm._defaults = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3}
    question = Question(token_ids=(5, 6, 7), answers=("x",))
    ask(llm, Item(id="i", task="t", length=3, max_tokens=5, score=any_of, make=lambda: question))
    assert seen[0].is_greedy and seen[0].max_tokens == 5


def test_files(tmp_path: Path) -> None:
    assert journal_path(None) is None
    assert journal_path(tmp_path / "a.b.json") == tmp_path / "a.b.jsonl"
    with pytest.raises(UsageError, match="ends in .json"):
        journal_path(tmp_path / "a.txt")
    save({"a": [1]}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_shades() -> None:
    assert [shade(score) for score in (0, 1, 40, 70, 99, 100)] == [" ", "░", "▒", "▓", "▓", "█"]


TABLE = [{"depth": d, "length": n, "score": 100 * d} for d in (0.0, 0.5, 1.0) for n in (1024, 2048)][:-1]


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_png(TABLE, tmp_path / "a.png", title="A model")
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 5000
    assert "matplotlib.pyplot" not in sys.modules


def test_a_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'whimbrel\[plots\]'"):
        write_png(TABLE, tmp_path / "a.png", title="A model")
    assert not list(tmp_path.iterdir())
