"""``--schema``, ``--regex`` and ``--choices``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance")

Call = Callable[..., Any]
SCHEMA = {"type": "object", "properties": {"kind": {"enum": ["wader", "owl"]}}, "required": ["kind"]}


def test_run_answers_in_a_schema_from_a_file_or_from_the_line(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "bird.json").write_text(json.dumps(SCHEMA))
    for schema in (tmp_path / "bird.json", json.dumps(SCHEMA)):
        result = call("run", "-m", model, "--schema", schema, "Which bird?")
        assert result.exit_code == 0 and json.loads(result.stdout)["kind"] in ("wader", "owl")


def test_run_answers_with_a_choice_or_a_match(call: Call, model: str) -> None:
    assert call("run", "-m", model, "--choices", 'yes, no,"well, maybe"', "Well?").stdout.strip() in (
        "yes",
        "no",
        "well, maybe",
    )
    assert call("run", "-m", model, "--raw", "--regex", r"\d{4}", "The year").stdout.strip().isdigit()


def test_ask_answers_with_a_choice(call: Call, model: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The fox jumps over the dog.")
    result = call("ask", "-m", model, "--choices", "fox,dog", tmp_path / "a.txt", "Who jumps?")
    assert result.stdout.strip() in ("fox", "dog") and result.exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--schema", '{"not": {}}'), "'not' at #"),
        (("--schema", '{"type": '), "it is no JSON"),
        (("--schema", "nowhere.json"), "nowhere.json: can't be read"),
        (("--regex", "a(b"), "unclosed group"),
        (("--choices", "a,,b"), "'' can't be a choice"),
        (("--choices", "a", "--regex", "b"), "--regex and --choices both say"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(call: Call, model: str, words: tuple[str, ...], message: str) -> None:
    result = call("run", "-m", model, *words, "hello")
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""
