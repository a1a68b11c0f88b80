"""whimbrel read, and ask of what was read: one line each where it can't be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whimbrel.ops import dispatch
from whimbrel.testing import tiny
from whimbrel.zoo.pull import pull

WHY_NO_NATIVE = dispatch.get("attend").why_not("native")
pytestmark = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))
Call = Callable[..., Any]
QUESTION = "What does it eat?"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "birds.txt"
    path.write_text(tiny.TEXT * 3)
    return path


def test_read_then_ask(call: Call, model: str, source: Path) -> None:
    result = call("read", "-m", model, source)
    assert result.exit_code == 0 and result.stdout.startswith(f"{source.with_suffix('.kv')}  ")
    assert "are free" in result.stderr and "answers without reading it again" in result.stderr
    answer = json.loads(call("ask", "-n", 4, "--json", source.with_suffix(".kv"), QUESTION).stdout)
    usage = answer["usage"]
    assert usage["cached_tokens"] % 64 == 0 and usage["prompt_tokens"] - usage["cached_tokens"] < 64 + 60
    plain = json.loads(call("ask", "-m", model, "-n", 4, "--json", source, QUESTION).stdout)
    assert plain["usage"]["cached_tokens"] == 0 and plain["token_ids"] == answer["token_ids"]


def test_read_as_json_and_again(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "other.kv"
    first = json.loads(call("read", "-m", model, "-o", out, "--kv-dtype", "q8", "--json", source).stdout)
    assert first["path"] == str(out) and not first["already"] and first["bytes"] == out.stat().st_size
    again = call("read", "-m", model, "-o", out, "--kv-dtype", "q8", source)
    assert "was read before" in again.stdout
    answer = call("ask", "-n", 2, "--json", out, QUESTION)
    assert json.loads(answer.stdout)["usage"]["cached_tokens"] > 0
    assert "kv_dtype q8, not bf16" in call("ask", "--kv-dtype", "bf16", out, QUESTION).stderr


def test_check(call: Call, model: str, source: Path) -> None:
    path = source.with_suffix(".kv")
    call("read", "-m", model, source)
    assert "all intact" in call("read", "--check", path).stdout
    assert json.loads(call("read", "--check", "--json", path).stdout)["intact"] is True
    assert call("read", "--check", "-m", model, path).exit_code == 2
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    result = call("read", "--check", path)
    assert result.exit_code == 1 and "damaged: block" in result.stderr and result.stderr.count("\n") == 1


def test_several_and_standard_input(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    call("read", "-m", model, source)
    assert "--out" in call("read", "-m", model, "-", input=tiny.TEXT).stderr
    assert call("read", "-m", model, "-o", tmp_path / "in.kv", "-", input=tiny.TEXT * 2).exit_code == 0
    both = call("ask", "-n", 2, "--json", source.with_suffix(".kv"), tmp_path / "in.kv", QUESTION)
    assert json.loads(both.stdout)["usage"]["cached_tokens"] >= 192
    mixed = call("ask", "-m", model, source.with_suffix(".kv"), source, QUESTION)
    assert mixed.exit_code == 2 and "read it first" in mixed.stderr


def test_each_mistake_is_one_line(call: Call, model: str, source: Path, tmp_path: Path) -> None:
    path = source.with_suffix(".kv")
    call("read", "-m", model, source)
    (tmp_path / "empty.txt").write_text(" ")
    (tmp_path / "foreign.kv").write_bytes(b"something else")
    (tmp_path / "half.kv").write_bytes(path.read_bytes()[:9000])
    other = pull(str(tiny.write_checkpoint(tmp_path / "other", "llama", seed=4, max_position_embeddings=2048))).name
    for words, code, text in (
        (("read", "-m", model, tmp_path / "none.txt"), 2, "there is no document"),
        (("read", "-m", model, tmp_path / "empty.txt"), 1, "is empty"),
        (("read", "-m", model, path), 2, "was read already"),
        (("read", "-m", model, "-o", tmp_path / "no" / "a.kv", source), 2, "no folder"),
        (("read", "-m", model, "-c", "256", source), 2, "--context"),
        (("read", "-m", model, "-o", tmp_path / "foreign.kv", source), 2, "choose another name"),
        (("ask", tmp_path / "foreign.kv", QUESTION), 1, "no document that was read"),
        (("ask", tmp_path / "half.kv", QUESTION), 1, "damaged"),
        (("ask", tmp_path / "none.kv", QUESTION), 2, "there is no"),
        (("ask", "-m", other, path, QUESTION), 2, "another model or quantization"),
        (("ask", "--system", "Be brief.", path, QUESTION), 2, "no system message"),
        (("ask", "-m", model, "--stale", source, QUESTION), 2, "--stale is about"),
    ):
        result = call(*words)
        assert result.exit_code == code and text in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1, result.stderr
    source.write_text("changed")
    assert "has changed since" in call("ask", path, QUESTION).stderr
    assert call("ask", "-n", 1, "--stale", path, QUESTION).exit_code == 0
