"""The comparison's own logic, on sides that say what they were told to; and the real engine on a tiny model."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_side import ScriptedSide

from whimbrel.bench import compare
from whimbrel.errors import InvalidParameter, ModelNotFound

PEER = {"file fa=0": (100.0, 60.0), "file fa=1": (120.0, 20.0), "q4_0 fa=0": (400.0, 50.0), "q4_0 fa=1": (500.0, 10.0)}


def measured(peer: ScriptedSide | None, repeats: int = 3) -> tuple[ScriptedSide, dict[str, Any]]:
    ours = ScriptedSide({"dense": (1000.0, 120.0), "sparse": (2000.0, 240.0)})
    result = compare.measure(ours, peer, [64, 128], repeats, 8, 1000, lambda line: None)
    return ours, result


def test_a_row_for_each_phase_and_context_with_the_best_setting() -> None:
    _, result = measured(ScriptedSide(PEER))
    rows = {(row["phase"], row["context"]): row for row in result["rows"]}
    assert list(rows) == [("prefill", 64), ("decode", 64), ("prefill", 128), ("decode", 128)]
    assert rows["prefill", 64]["peer_setting"] == "q4_0 fa=1"
    assert rows["decode", 64]["peer_setting"] == "file fa=0"
    assert rows["prefill", 64]["ratio"] == {"min": 2.0, "median": 2.0, "max": 2.0}
    assert rows["decode", 64]["ratio"]["median"] == 2.0
    assert set(rows["decode", 64]["peer_first_runs"]) == set(PEER)
    json.dumps(result)


def test_turns_are_interleaved_and_prompts_are_the_same_on_both_sides_and_always_new() -> None:
    peer = ScriptedSide(PEER)
    ours, _ = measured(peer)
    prompts = [prompt for _, prompt in ours.runs]
    assert len(set(prompts)) == len(prompts) == 6
    for _, prompt in peer.runs[len(PEER) : len(PEER) + 3]:
        assert prompt == prompts[0]


def test_settings_far_from_the_best_of_both_phases_run_once() -> None:
    peer = ScriptedSide(PEER)
    measured(peer, repeats=5)
    runs = [setting for setting, prompt in peer.runs if len(prompt) == 64]
    assert runs.count("file fa=1") == 1
    assert runs.count("q4_0 fa=1") == runs.count("file fa=0") == 6


def test_decode_rows_say_how_near_the_memory_limit_they_are() -> None:
    _, result = measured(None)
    prefill, decode = result["rows"][:2]
    assert decode["bytes_per_token"] == 1_000_000 + 1000 * (64 + 4)
    assert decode["share_of_read_limit"] == pytest.approx(1_068_000 * 120 / 1e9, rel=1e-3)
    assert "share_of_read_limit" not in prefill
    assert "peer" not in decode


def test_the_peer_is_checked_for_agreement() -> None:
    _, result = measured(ScriptedSide(PEER))
    assert result["agreement"]["agrees"] is True
    assert result["agreement"]["first_divergence"] is None


def test_table() -> None:
    _, result = measured(ScriptedSide(PEER))
    assert compare.render(result)[1] == ("decode 64 dense", "120", "60", "2.00", "file fa=0")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"against": "gpt"}, "there are 'llama.cpp' and 'none'"),
        ({"contexts": [8]}, "at least 64"),
        ({"contexts": []}, "at least 64"),
        ({"repeats": 0}, "at least 1"),
    ],
)
def test_impossible_parameters(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        compare.run(Path("model.gguf"), **change)


def test_a_folder_has_no_peer(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="is a folder"):
        compare.run(tmp_path)


def test_a_missing_model_is_said_by_the_worker(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        compare.run(tmp_path / "none.gguf", against="none")


def test_the_engine_on_a_tiny_model(tmp_path: Path) -> None:
    pytest.importorskip("whimbrel._native")
    from whimbrel.testing.tiny import write_checkpoint

    lines: list[str] = []
    result = compare.run(
        write_checkpoint(tmp_path / "tiny"),
        contexts=[64],
        against="none",
        threads=1,
        repeats=2,
        decode_tokens=4,
        progress=lines.append,
    )
    rows = result["rows"]
    assert isinstance(rows, list)
    assert [row["phase"] for row in rows] == ["prefill", "decode"]
    assert all(0 < row["whimbrel"]["min"] <= row["whimbrel"]["median"] <= row["whimbrel"]["max"] for row in rows)
    assert result["threads"] == 1
    assert result["isa"]
    assert "64 tokens: turn 2 of 2" in lines
