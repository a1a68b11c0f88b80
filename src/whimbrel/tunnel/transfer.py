"""Does the best learning rate move with the width? The question of a sweep over widths and rates, answered in factors of 2."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whimbrel.errors import UsageError
from whimbrel.tunnel.trial import DONE, Outcome, Trial

Runs = Iterable[tuple[Trial, Outcome]]


@dataclass(frozen=True, kw_only=True, slots=True)
class WidthResult:
    """One width of one parametrization and batch size."""

    width: int
    losses: tuple[tuple[float, float | None], ...]
    """(rate, mean held-out loss over seeds), rates ascending; None: stopped or diverged"""
    best_rate: float
    best_loss: float
    at_edge: bool
    """the best rate is the smallest or largest that was tried: the true one may lie outside"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """How the optimum of one parametrization moves."""

    parametrization: str
    tokens_per_step: int
    widths: tuple[WidthResult, ...]
    moves: float
    """log2 of the largest best rate over the smallest: 1 is one step of a factor-2 grid"""
    drift: float
    """log2 of the last width's best rate over the first's"""
    fixed: tuple[tuple[int, float | None], ...]
    """(width, loss at the narrowest width's best rate minus that width's best loss); None: stopped or diverged"""


def transfer(runs: Runs) -> list[Transfer]:
    """One for each parametrization and batch size. Raises UsageError where no two widths have a finished run."""
    series: dict[tuple[str, int], dict[int, dict[float, list[float | None]]]] = {}
    for trial, outcome in runs:
        rates = series.setdefault((trial.parametrization, trial.tokens_per_step), {}).setdefault(trial.width, {})
        rates.setdefault(trial.rate, []).append(outcome.loss if outcome.status == DONE else None)
    found = [
        _transfer(*key, widths)
        for key, widths in sorted(series.items())
        if sum(any(None not in losses for losses in rates.values()) for rates in widths.values()) > 1
    ]
    if not found:
        raise UsageError("no parametrization has finished runs of two widths; `whimbrel tunnel sweep` more of them")
    return found


def _transfer(parametrization: str, batch: int, widths: dict[int, dict[float, list[float | None]]]) -> Transfer:
    results = [found for width, rates in sorted(widths.items()) if (found := _width(width, rates)) is not None]
    best = [result.best_rate for result in results]
    fixed = tuple((r.width, _behind(r, best[0])) for r in results if best[0] in dict(r.losses))
    return Transfer(
        parametrization=parametrization,
        tokens_per_step=batch,
        widths=tuple(results),
        moves=math.log2(max(best) / min(best)),
        drift=math.log2(best[-1] / best[0]),
        fixed=fixed,
    )


def _width(width: int, rates: dict[float, list[float | None]]) -> WidthResult | None:
    losses = tuple((rate, _mean(values)) for rate, values in sorted(rates.items()))
    ended = [(loss, rate) for rate, loss in losses if loss is not None]
    if not ended:
        return None
    best_loss, best_rate = min(ended)
    return WidthResult(
        width=width,
        losses=losses,
        best_rate=best_rate,
        best_loss=best_loss,
        at_edge=best_rate in (losses[0][0], losses[-1][0]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """None as soon as one seed did not finish: a rate that works sometimes is no good rate."""
    ended = [value for value in values if value is not None]
    return sum(ended) / len(ended) if len(ended) == len(values) else None


def _behind(result: WidthResult, rate: float) -> float | None:
    loss = dict(result.losses)[rate]
    return None if loss is None else loss - result.best_loss
