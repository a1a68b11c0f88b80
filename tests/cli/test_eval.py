"""``whimbrel eval``: grids and tasks on a tiny model; what is saved, resumed and refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]
SPARSE = "topk=4,window_size=64,dense_len=128"
NIAH = ("eval", "niah", "--lengths", "512,1k", "--depths", 2)


def test_niah(call: Call, model: str, tmp_path: Path) -> None:
    output = tmp_path / "grid.json"
    result = call(*NIAH, "-m", model, "-o", output)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["512", "1,024"]
    assert lines[1].startswith("depth 0%") and lines[2].startswith("depth 100%")
    assert lines[-1].startswith("score ") and "4 items; attention dense" in lines[-1]
    saved = json.loads(output.read_text())
    assert (saved["eval"], saved["schema_version"], saved["sparsity"]) == ("niah", 1, 0)
    assert {record["prompt_tokens"] for record in saved["records"]} == {512, 1024}
    assert len((tmp_path / "grid.jsonl").read_text().splitlines()) == 5
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_grid_is_not_asked_again(call: Call, model: str, tmp_path: Path) -> None:
    words = (*NIAH, "-m", model, "-o", tmp_path / "grid.json", "--json")
    first = json.loads(call(*words, "--limit", 3).stdout)
    assert len(first["records"]) == 3
    second = call(*words)
    assert "3 of 4 items are in" in second.stderr
    assert json.loads(second.stdout)["records"][:3] == first["records"]
    other = call(*words, "--seed", 1)
    assert other.exit_code == 2 and "records of another evaluation (seed 0, not 1)" in other.stderr


def test_niah_sparse_says_how_sparse(call: Call, model: str) -> None:
    result = call(*NIAH, "-m", model, "--attention", "sparse", "--sparse", SPARSE, "--json")
    found = json.loads(result.stdout)
    assert found["attention"] == "sparse" and found["sparse"]["topk"] == 4
    assert "this model was not trained for it" in found["warnings"][0]
    # the last of 1,024 keys: 4 whole blocks and its own, of 16
    assert found["by_length"]["1024"]["last_sparsity"] == pytest.approx(1 - 5 / 16)
    assert 0 < found["by_length"]["512"]["sparsity"] < found["by_length"]["1024"]["sparsity"] < 1 - 5 / 16


def test_without_matplotlib_everything_else_comes(
    call: Call, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = call(*NIAH, "-m", model, "-o", tmp_path / "grid.json", "--limit", 1)
    assert result.exit_code == 0 and "pip install 'whimbrel[plots]'" in result.stderr
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"grid.json", "grid.jsonl"}


def test_an_interruption_is_said(call: Call, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whimbrel.eval import record

    asked = []

    def ask(*arguments: Any, plain: Any = record.ask) -> Any:
        asked.append(arguments)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(record, "ask", ask)
    result = call(*NIAH, "-m", model, "-o", tmp_path / "grid.json")
    assert result.exit_code == 130 and "1 items are in" in result.stderr and "goes on from there" in result.stderr


def test_ruler(call: Call, model: str, tmp_path: Path) -> None:
    words = (
        "eval",
        "ruler",
        "-m",
        model,
        "--lengths",
        "1k",
        "--samples",
        1,
        "--tasks",
        "niah_single_1,niah_multikey_2",
    )
    result = call(*words, "-o", tmp_path / "ruler.json")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["niah_single_1", "niah_multikey_2"]
    saved = json.loads((tmp_path / "ruler.json").read_text())
    assert [cell["task"] for cell in saved["table"]] == ["niah_single_1", "niah_multikey_2"]
    assert all(record["prompt_tokens"] <= 1024 - 128 for record in saved["records"])


def test_ruler_says_what_stands_in(call: Call, model: str) -> None:
    words = ("eval", "ruler", "-m", model, "--lengths", "2k", "--samples", 1, "--tasks", "vt,documents_qa_1")
    result = call(*words)
    assert "no data set was given for qa_1: documents_qa_1 stands in" in result.stderr
    assert result.stdout.splitlines()[-1].startswith("score ") and "without documents_qa_1" in result.stdout
    found = json.loads(call(*words, "--json").stdout)
    assert found["substitutes"] == {"qa_1": "documents_qa_1"}
    vt, other = (cell["score"] for cell in found["table"])
    assert found["score_without_substitutes"] == vt and found["score"] == (vt + other) / 2


def test_perplexity_of_both(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The quick brown fox jumps over the lazy dog. " * 60)
    words = ("eval", "ppl", "-m", model, "-w", 512, "--windows", 1, tmp_path / "a.txt")
    lines = call(*words, "--attention", "both", "--sparse", SPARSE).stdout.splitlines()
    assert "attention dense, 0.0% of keys not attended" in lines[0]
    assert "attention sparse" in lines[1] and lines[2].startswith("sparse against dense: ")
    runs = json.loads(call(*words, "--attention", "both", "--sparse", SPARSE, "--json").stdout)["runs"]
    assert [run["attention"] for run in runs] == ["dense", "sparse"]
    assert runs[0]["sparsity"] == 0 < runs[1]["sparsity"] < runs[1]["last_sparsity"]
    assert runs[0]["perplexity"] != runs[1]["perplexity"]
    one = json.loads(call(*words, "--attention", "dense", "--json").stdout)
    assert one["perplexity"] == runs[0]["perplexity"] and one["perplexity_all"] == runs[0]["perplexity_all"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["niah", "--lengths", "zz"], 2, "write 4096, 32k"),
        (["niah", "--lengths", "40"], 2, "too short for this task"),
        (["niah", "--lengths", "512", "--depths", "0"], 2, "depths=0"),
        (["niah", "--lengths", "512", "--needle", "gold"], 2, "there are number, sentence"),
        (["niah", "--lengths", "512", "--haystack", "absent.txt"], 2, "absent.txt"),
        (["niah", "--lengths", "512", "-o", "a.txt"], 2, "ends in .json"),
        (["niah", "--lengths", "512", "-c", "256"], 2, "the context holds 256"),
        (["niah", "--attention", "sparse", "--sparse", "topk=0", "--lengths", "512"], 2, "topk"),
        (["ruler", "--tasks", "qa_2"], 2, "--hotpotqa hotpot_dev_distractor_v1.json"),
        (["ruler", "--tasks", "needles"], 2, "there is no task 'needles'"),
        (["ruler", "--squad", "absent.json"], 2, "there is no file absent.json"),
        (["ppl", "absent.txt"], 2, "absent.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_requests_get_one_line(call: Call, model: str, words: list[str], code: int, says: str) -> None:
    result = call("eval", *words, "-m", model)
    assert result.exit_code == code, result.output
    assert says in result.stderr and "Traceback" not in result.output
