"""``whimbrel eval sparsity`` on a tiny model: a table, JSON with every head, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]
SPARSE = "topk=2,window_size=64,dense_len=128"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    return path


def test_table_and_json(call: Call, model: str, text: Path) -> None:
    words = ("eval", "sparsity", text, "-m", model, "-l", 512, "--samples", 2, "--tokens", 2, "--sparse", SPARSE)
    result = call(*words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["layer", "all", "best", "recall", "free", "worst", "head"]
    assert lines[-1].startswith("4 tokens looked at, ")
    found = json.loads(call(*words, "--json").stdout)
    assert found["tokens"] == 512 and found["queries"] == 4 and found["sparse"]["topk"] == 2
    assert len(found["heads"]) == len({(head["layer"], head["head"]) for head in found["heads"]}) >= 2
    assert 0 < found["share"] <= found["oracle_share"] <= 1 + 1e-4
    assert 0 < found["chosen_recall"] <= 1 + 1e-4


def test_the_reference_knows_another_estimator(call: Call, model: str, text: Path) -> None:
    words = ("eval", "sparsity", text, "-m", model, "-l", 400, "--samples", 1, "--tokens", 1)
    signs = ("--sparse", f"{SPARSE},estimator=signs,lse=exact")
    refused = call(*words, *signs, "--ops", "native")
    assert refused.exit_code != 0 and "ops='reference'" in refused.stderr
    result = call(*words, *signs, "--ops", "reference", "--json")
    assert json.loads(result.stdout)["sparse"]["estimator"] == "signs"


def test_a_short_text_is_refused(call: Call, model: str, text: Path) -> None:
    result = call("eval", "sparsity", text, "-m", model, "-l", 100, "--sparse", SPARSE)
    assert result.exit_code == 2 and "no token before 193 is sparse" in result.stderr
