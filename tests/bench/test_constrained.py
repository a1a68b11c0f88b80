"""The program that checks and times constrained answers: its checks fail where they should, its counts add up."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance")
pytest.importorskip("jsonschema")

from whimbrel.backends.llm import LLM
from whimbrel.bench import constrained
from whimbrel.errors import UsageError
from whimbrel.ops import dispatch
from whimbrel.testing import tiny

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "day": {"type": "string", "format": "date"}},
    "required": ["kind", "day"],
}
TOOL = {"name": "note", "description": "Notes a thing.", "inputSchema": SCHEMA}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.tools.json").write_text(json.dumps([TOOL]))
    return tmp_path


def test_tools_are_read(folder: Path, tmp_path: Path) -> None:
    assert constrained.read_tools(folder) == [TOOL]
    with pytest.raises(UsageError, match=r"no \*.tools.json"):
        constrained.read_tools(tmp_path / "nowhere")


def test_six_of_ten_cases_are_schemas() -> None:
    kinds = [case.kind for case in islice(constrained.cases([TOOL]), 100)]
    assert kinds.count("schema") == 60
    assert {kind: kinds.count(kind) for kind in ("regex", "choice", "lark", "sql")} == dict.fromkeys(
        ("regex", "choice", "lark", "sql"), 10
    )


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            "schema",
            '{"kind": "a", "day": "2024-02-29"}',
            ['{"kind": "a", "day": "2023-02-29"}', '{"kind": "c"}', '{"kind'],
        ),
        ("regex", "1987-06-05", ["1987-6-5", "x1987-06-05"]),
        ("choice", "yes", ["Yes", "yes "]),
        ("lark", "(1 + 2) * 3 = 9", ["(1 + 2 = 3", "1 + 1 = x"]),
        (
            "sql",
            "SELECT name FROM birds",
            ["SELECT FROM birds", "SELECT 1; SELECT 2", "SELECT SUM(1) FROM (SELECT 1) WHERE"],
        ),
    ],
)
def test_checks_fail_where_they_should(kind: str, good: str, bad: list[str]) -> None:
    case = next(case for case in constrained.cases([TOOL]) if case.kind == kind)
    assert case.check(good) is None
    assert all(case.check(answer) for answer in bad)


def test_compiling_counts_what_is_refused() -> None:
    result = constrained.compiling([TOOL, {"name": "bad", "inputSchema": {"not": {}}}])
    assert result["schemas"] == 2
    assert len(result["refused"]) == 1 and result["refused"][0].startswith("bad: the keyword 'not'")


@pytest.mark.skipif(dispatch.get("attend").why_not("native") is not None, reason="needs the native kernels")
def test_answers_are_counted_and_timed(tmp_path: Path) -> None:
    with LLM(tiny.write_checkpoint(tmp_path / "llama"), context=512, max_sequences=4, cache_bytes=8 << 20) as llm:
        reports: list[str] = []
        counts = constrained.validity(llm, [TOOL], 10, 120, report=reports.append)
        assert counts["complete"] == counts["valid"] == 10 and counts["invalid"] == 0
        assert sum(sum(kind.values()) for kind in counts["kinds"].values()) == 10 + counts["cut"]
        assert reports[-1] == "10 complete answers, 0 invalid"
        asked = [case for case in islice(constrained.cases([TOOL]), 1)]
        speed = constrained.speed(llm, asked, 60, 1, 1.0)
        assert speed["tokens"] > 8 and speed["tokens_per_pass"] > 1
        assert constrained.side_by_side(llm, 2, 12, 1)["answers"] == 2
