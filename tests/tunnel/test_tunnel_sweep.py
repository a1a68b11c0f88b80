"""A sweep runs each trial once, on every kind of pool; hopeless runs are stopped, dead workers named and repeated."""

import importlib.util
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from whimbrel.errors import InvalidParameter, WhimbrelError
from whimbrel.tunnel.ledger import Ledger
from whimbrel.tunnel.pool import Pool, open_pool
from whimbrel.tunnel.sweep import Stopping, grid, loss_at, sweep
from whimbrel.tunnel.trial import DONE, STOPPED, Bars, Outcome, Trial, missed


@dataclass(frozen=True)
class Pretend:
    """Losses by formula; notes each call in a folder; dies or raises where told to."""

    folder: Path
    die_at: float = 0.0
    deaths: int = 1
    fail_at: float = 0.0

    def __call__(self, trial: Trial, bars: Bars) -> Outcome:
        calls = len(list(self.folder.glob(f"{trial.key}.*")))
        (self.folder / f"{trial.key}.{calls}").touch()
        if trial.rate == self.die_at and calls < self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.rate == self.fail_at:
            raise InvalidParameter("rate: made up")
        curve, before = [], 0
        for step in range(0, trial.steps, 5):
            curve.append((step, 2 + abs(trial.rate - 0.02) * 100 / (step + 1) ** 0.1))
            if why := missed(bars, step, curve[-1][1], before):
                return _outcome(trial, STOPPED, None, curve, why)
            before = step
        return _outcome(trial, DONE, curve[-1][1], curve, "")


def _outcome(trial: Trial, status: str, loss: float | None, curve: list[tuple[int, float]], reason: str) -> Outcome:
    return Outcome(
        status=status, loss=loss, curve=tuple(curve), parameters=trial.width, tokens=1, seconds=0.0, reason=reason
    )


def trials() -> list[Trial]:
    return grid([64, 128], [0.01, 0.02, 0.04], [256], [0], steps=50)


def ledger(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.jsonl", {"made": "up"})


@pytest.mark.parametrize("spread", ["here", "processes"])
def test_each_trial_runs_once_and_a_second_sweep_runs_nothing(tmp_path: Path, spread: str) -> None:
    run = Pretend(tmp_path)
    for _ in range(2):
        with ledger(tmp_path) as runs:
            found = sweep(trials(), open_pool(run, 2, spread), runs)
        assert [trial.key for trial, _ in found] == [trial.key for trial in trials()]
        assert all(outcome.status == DONE for _, outcome in found)
    assert sorted(path.name for path in tmp_path.glob("mup-*")) == sorted(f"{t.key}.0" for t in trials())


RAY = pytest.param(
    "ray",
    marks=[pytest.mark.slow, pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not here")],
)


@pytest.mark.parametrize("spread", ["processes", RAY])
def test_a_worker_that_dies_is_named_and_its_trial_repeated(
    tmp_path: Path, spread: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # Ray's workers import this file
    with ledger(tmp_path) as runs, caplog.at_level(logging.WARNING):
        found = sweep(trials()[:3], open_pool(Pretend(tmp_path, die_at=0.04), 2, spread), runs)
    assert len(found) == 3
    assert "the worker of mup-w64-b256-n50-lr0.04-s0 died" in caplog.text
    assert sorted(path.name[-1] for path in tmp_path.glob("mup-*")) == ["0", "0", "0", "1"]


def test_a_worker_that_keeps_dying_ends_the_sweep_and_loses_nothing(tmp_path: Path) -> None:
    run = Pretend(tmp_path, die_at=0.04, deaths=9)
    with ledger(tmp_path) as runs:
        with pytest.raises(WhimbrelError, match=r"lr0.04-s0 died 2 times \(killed by signal 9\)"):
            sweep(trials()[:3], open_pool(run, 1, "processes"), runs, retries=1)
        assert len(runs) >= 1


def test_a_trial_s_error_ends_the_sweep(tmp_path: Path) -> None:
    with ledger(tmp_path) as runs, pytest.raises(InvalidParameter, match="made up"):
        sweep(trials(), open_pool(Pretend(tmp_path, fail_at=0.02), 1, "processes"), runs)
    with pytest.raises(InvalidParameter, match="spread='cloud' is unknown"):
        open_pool(Pretend(tmp_path), 1, "cloud")


def test_a_hopeless_run_is_stopped_and_noted(tmp_path: Path) -> None:
    pool: Pool = open_pool(Pretend(tmp_path), 1)
    with ledger(tmp_path) as runs:
        found = {t.rate: o for t, o in sweep(trials()[:3], pool, runs, stopping=Stopping(margin=0.8))}
    assert found[0.02].status == found[0.01].status == DONE
    assert found[0.04].status == STOPPED and "above the bar" in found[0.04].reason


def test_bars_come_from_finished_runs_of_the_same_group_only() -> None:
    first, other = trials()[0], trials()[3]
    done = _outcome(first, DONE, 2.0, [(0, 9.0), (12, 4.0), (25, 3.0), (49, 2.0)], "")
    bars = Stopping(at=(0.25, 0.5), margin=0.5).bars(first, [(first, done)])
    assert [step for step, _ in bars] == [12, 25]
    assert Stopping().bars(other, [(first, done)]) == ()
    assert loss_at(done.curve, 60) is None
    with pytest.raises(InvalidParameter, match="margin 0"):
        Stopping(margin=0)
