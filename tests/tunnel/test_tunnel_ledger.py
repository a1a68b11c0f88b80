"""A ledger keeps every run exactly once, whatever kills its writer."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from whimbrel.errors import FormatError, UsageError, WriteError
from whimbrel.tunnel.ledger import Ledger, read_ledger
from whimbrel.tunnel.trial import Outcome, Trial, missed

RECIPE = {"layers": 2, "widths": (1, 2)}
OUTCOME = Outcome(status="done", loss=3.5, curve=((0, 5.0), (9, 3.6)), parameters=10, tokens=100, seconds=1.0)


def trial(seed: int = 0) -> Trial:
    return Trial(width=64, rate=0.01, tokens_per_step=256, steps=10, seed=seed)


def test_runs_come_back_as_they_were_added(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, RECIPE) as ledger:
        ledger.add(trial(), OUTCOME)
        with pytest.raises(UsageError, match="is there already"):
            ledger.add(trial(), OUTCOME)
    with Ledger(path, RECIPE) as ledger:
        assert len(ledger) == 1 and ledger.get(trial()) == OUTCOME and ledger.get(trial(1)) is None
    assert read_ledger(path) == ({"layers": 2, "widths": [1, 2]}, [(trial(), OUTCOME)])


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, RECIPE) as ledger:
        ledger.add(trial(), OUTCOME)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "mup-w')
    assert len(read_ledger(path)[1]) == 1
    with Ledger(path, RECIPE) as ledger:
        ledger.add(trial(1), OUTCOME)
    assert len(read_ledger(path)[1]) == 2 and path.read_bytes().startswith(whole)


def test_another_recipe_another_writer_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, RECIPE), pytest.raises(UsageError, match="open in another sweep"):
        Ledger(path, RECIPE)
    with pytest.raises(UsageError, match="layers 2, not 3"):
        Ledger(path, {**RECIPE, "layers": 3})
    Ledger(path, RECIPE).close()
    other = tmp_path / "other.jsonl"
    other.write_text('{"hello": 1}\n')
    with pytest.raises(FormatError, match="no ledger"):
        Ledger(other, RECIPE)
    with pytest.raises(FormatError, match="can't be read"):
        read_ledger(tmp_path / "nowhere")
    twice = path.read_text() + 2 * (json.dumps({"key": "k", **_line()}) + "\n")
    other.write_text(twice)
    with pytest.raises(FormatError, match="twice"):
        read_ledger(other)


def test_a_full_disk_leaves_the_runs_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, RECIPE) as ledger:
        ledger.add(trial(), OUTCOME)
        real = os.write
        monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:7]))
        with pytest.raises(WriteError, match="the runs before are safe"):
            ledger.add(trial(1), OUTCOME)
        monkeypatch.undo()
        ledger.add(trial(1), OUTCOME)
    assert len(read_ledger(path)[1]) == 2


def test_kill_9_loses_nothing_that_was_added(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    program = f"""
from whimbrel.tunnel.ledger import Ledger
from whimbrel.tunnel.trial import Outcome, Trial
with Ledger({str(path)!r}, {RECIPE!r}) as ledger:
    for seed in range(100000):
        ledger.add(Trial(width=64, rate=.01, tokens_per_step=256, steps=10, seed=seed), {OUTCOME!r})
        print(seed, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        added = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
    with Ledger(path, RECIPE) as ledger:
        seeds = [found.seed for found, _ in ledger]
    assert set(added) <= set(seeds) and len(seeds) == len(set(seeds))


def test_a_bar_is_missed_once_and_only_from_above() -> None:
    bars = ((10, 3.0), (20, 2.5))
    assert missed(bars, 9, 9.0, 0) is None
    assert missed(bars, 11, 2.9, 9) is None
    assert "above the bar of 2.500 at step 20" in str(missed(bars, 21, 2.6, 18))
    assert missed(bars, 22, 9.0, 20) is None
    assert missed(bars, 10, float("nan"), 9) is not None


def _line() -> dict[str, object]:
    from whimbrel.tunnel.trial import to_json

    return dict(json.loads(to_json(trial(), OUTCOME)))
