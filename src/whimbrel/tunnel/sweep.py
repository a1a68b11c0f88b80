"""Sweep: run a grid of trials, each once, whatever interrupts; stop early those that can't win.

Successive comparison: at fixed shares of a run (``Stopping.at``) its training loss is compared with the best that runs
of its group had at that step. One that is ``margin`` nats behind is stopped and noted as such, never dropped.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from whimbrel.errors import InvalidParameter, WhimbrelError
from whimbrel.tunnel.ledger import Ledger
from whimbrel.tunnel.pool import Died, Pool
from whimbrel.tunnel.trial import DONE, Bars, Outcome, Trial

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """When a run is hopeless."""

    at: tuple[float, ...] = (0.25, 0.5, 0.75)
    """shares of the steps at which runs are compared"""
    margin: float = 0.5
    """nats behind the best of the group; 0.5 is about 5 times what one factor of 2 in the rate costs near the best"""

    def __post_init__(self) -> None:
        if self.margin <= 0 or not all(0 < share < 1 for share in self.at):
            raise InvalidParameter(f"stopping: margin {self.margin} must be above 0, shares {self.at} between 0 and 1")

    def bars(self, trial: Trial, ended: Iterable[tuple[Trial, Outcome]]) -> Bars:
        """What ``trial`` has to reach, from the finished runs of its group."""
        curves = [outcome.curve for other, outcome in ended if other.group == trial.group and outcome.status == DONE]
        steps = [max(1, round(share * trial.steps)) for share in self.at]
        bars = []
        for step in steps:
            losses = [loss for curve in curves if (loss := loss_at(curve, step)) is not None]
            if losses:
                bars.append((step, min(losses) + self.margin))
        return tuple(bars)


def loss_at(curve: Sequence[tuple[int, float]], step: int) -> float | None:
    """Mean of up to three logged losses around a step; None where the curve ends before it."""
    if not curve or curve[-1][0] < step:
        return None
    index = next(i for i, (at, _) in enumerate(curve) if at >= step)
    near = [loss for _, loss in curve[max(0, index - 1) : index + 2]]
    return sum(near) / len(near)


def grid(
    widths: Sequence[int],
    rates: Sequence[float],
    batches: Sequence[int],
    seeds: Sequence[int],
    *,
    steps: int,
    parametrization: str = "mup",
) -> list[Trial]:
    """All combinations; the smallest widths first, and in each width the middle rates first, that bars are low early."""
    middle = len(rates) / 2 - 0.5
    order = sorted(range(len(rates)), key=lambda index: abs(index - middle))
    return [
        Trial(width=w, rate=rates[i], tokens_per_step=b, steps=steps, seed=s, parametrization=parametrization)
        for w, b, i, s in itertools.product(sorted(widths), batches, order, seeds)
    ]


def sweep(
    trials: Sequence[Trial],
    pool: Pool,
    ledger: Ledger,
    *,
    stopping: Stopping | None = None,
    retries: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[tuple[Trial, Outcome]]:
    """Run what the ledger lacks; every outcome is in it before the next is waited for. Closes the pool.

    A worker that dies is named in the log and its trial run again, up to ``retries`` times; then, and for an error that
    a trial raised, the sweep stops with it. Runs that ended are safe. Raises WhimbrelError of the trial.
    """
    todo = list({trial.key: trial for trial in trials if ledger.get(trial) is None}.values())
    left, running, deaths = list(todo), 0, dict.fromkeys((trial.key for trial in todo), 0)
    total = len({trial.key for trial in trials})
    try:
        while left or running:
            progress(total - len(left) - running, total)
            while left and pool.room > 0:
                trial = left.pop(0)
                pool.submit(trial, stopping.bars(trial, ledger) if stopping else ())
                running += 1
            trial, ended = pool.wait()
            running -= 1
            if isinstance(ended, Died):
                deaths[trial.key] += 1
                log.warning("the worker of %s died (%s); death %d of it", trial.key, ended.why, deaths[trial.key])
                if deaths[trial.key] > retries:
                    raise WhimbrelError(
                        f"the worker of {trial.key} died {deaths[trial.key]} times ({ended.why}): is there enough "
                        "memory? fewer --workers need less; the same command goes on from the ledger"
                    )
                left.insert(0, trial)
            elif isinstance(ended, WhimbrelError):
                raise ended
            else:
                ledger.add(trial, ended)
        progress(total, total)
    finally:
        pool.close()
    return [(trial, found) for trial in trials if (found := ledger.get(trial)) is not None]
