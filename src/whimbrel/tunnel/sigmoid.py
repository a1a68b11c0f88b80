"""From conditional loss to task score: S(L) = c / (1 + exp(-gamma (L - l))) + d, gamma < 0.

Source: MiniCPM4 (2025), section 3.3; Densing Law (2024), equation 4. S tends to d, chance, where the loss is high, and
to c + d where it is low. Choices, made for all tasks alike by predicting the larger sizes of the OLMo ladder from its
smaller ones (docs/tunnel.md has the errors of the alternatives):

* every interval of the score weighs the same (20 intervals), or the many early checkpoints near chance decide;
* d lies within 0.05 of chance; c + d may reach 1.5, and predictions are cut off at 1: the data of a ladder end long
  before the score is full, where a bound of 1 bends the curve below them;
* Huber loss that turns linear at 0.01, the least cost of many starts;
* the band comes from fits to resampled runs (not points: those of one run are no independent ones).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.tunnel.optimize import Array, least_squares
from whimbrel.tunnel.score_points import Point

ABOVE_CHANCE = 0.05
"""A ladder without one score that is so far above the fitted chance carries no prediction."""
NEAR_CHANCE = 0.05
TOP = 1.5
HUBER = 0.01
INTERVALS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Sigmoid:
    """The four parameters."""

    c: float
    gamma: float
    l: float
    d: float

    def __call__(self, loss: Array | float) -> Array:
        """Scores of losses, at most 1."""
        scores: Array = np.minimum(1.0, self.c * _logistic(self.gamma * (np.asarray(loss, float) - self.l)) + self.d)
        return scores

    def loss_of(self, score: float) -> float:
        """The loss at which the score is reached. Raises UsageError for a score outside (d, c + d)."""
        if not self.d < score < self.c + self.d:
            raise UsageError(f"score {score:g} is outside the curve's range, {self.d:.3f} to {self.c + self.d:.3f}")
        return float(self.l - np.log(self.c / (score - self.d) - 1) / self.gamma)


@dataclass(frozen=True, kw_only=True, slots=True)
class SigmoidFit:
    """A curve and what is known about it."""

    curve: Sigmoid
    resampled: tuple[Sigmoid, ...]
    error: float
    """root of the mean squared error on the points"""
    points: int
    runs: int
    losses: tuple[float, float]
    """the smallest and the largest of the points"""

    def band(self, loss: Array | float, inside: float = 0.9) -> tuple[Array, Array]:
        """Between which scores the curve lies in ``inside`` of the resampled fits; noise of single scores is not in it."""
        scores = np.stack([curve(loss) for curve in self.resampled])
        low, high = np.quantile(scores, [0.5 - inside / 2, 0.5 + inside / 2], axis=0)
        return low, high


def fit_sigmoid(
    points: Sequence[Point], chance: float, *, starts: int = 12, resamples: int = 100, seed: int = 0
) -> SigmoidFit:
    """Fit one task's points. ``chance``: the score of guessing.

    Raises UsageError for fewer than 8 points and where no score leaves chance: what such points say about larger models
    is nothing. InvalidParameter for an impossible chance.
    """
    if not 0 <= chance < 1:
        raise InvalidParameter(f"chance {chance} is impossible; a share of 0 to 1 was expected")
    losses, scores = (np.array([getattr(point, name) for point in points]) for name in ("loss", "score"))
    if len(points) < 8:
        raise UsageError(f"{len(points)} points can't fix four parameters; at least 8 were expected")
    rng = np.random.default_rng(seed)
    best = _fit(losses, scores, chance, _starts(losses, scores, chance, starts, rng))
    curve = _curve(best)
    highest = float(np.sort(scores)[-3:].mean())
    if highest <= curve.d + ABOVE_CHANCE:
        raise UsageError(
            f"refused: the best scores ({highest:.3f}) are within {ABOVE_CHANCE} of chance ({curve.d:.3f}); what a larger "
            "model scores does not follow from them. Add larger or longer trained models, or an easier task"
        )
    names = sorted({(point.model, point.run) for point in points})
    members = [np.array([i for i, p in enumerate(points) if (p.model, p.run) == name]) for name in names]
    resampled = []
    for _ in range(resamples):
        chosen = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        resampled.append(_curve(_fit(losses[chosen], scores[chosen], chance, [best])))
    return SigmoidFit(
        curve=curve,
        resampled=tuple(resampled or [curve]),
        error=float(np.sqrt(np.mean((curve(losses) - scores) ** 2))),
        points=len(points),
        runs=len(names),
        losses=(float(losses.min()), float(losses.max())),
    )


def balance(scores: Array, intervals: int = INTERVALS) -> Array:
    """Weights whose squares have mean 1 and the same sum in each interval of the score that has points."""
    counts, edges = np.histogram(scores, intervals)
    place = np.clip(np.digitize(scores, edges) - 1, 0, intervals - 1)
    weights = np.sqrt(1 / np.maximum(counts[place], 1))
    balanced: Array = weights / np.sqrt((weights**2).mean())
    return balanced


def _fit(losses: Array, scores: Array, chance: float, starts: Sequence[Array]) -> Array:
    """Parameters (c + d, gamma, l, d), so that the bounds are a box."""
    weights = balance(scores)
    low, high = _bounds(losses, chance)

    def residuals(x: Array) -> Array:
        top, gamma, middle, bottom = x
        errors: Array = (top - bottom) * _logistic(gamma * (losses - middle)) + bottom - scores
        return weights * errors

    spread = float(np.ptp(losses)) or 1.0
    best, _ = least_squares(residuals, starts, low, high, huber=HUBER, scales=[0.3, 3 / spread, 0.3 * spread, 0.05])
    return best


def _bounds(losses: Array, chance: float) -> tuple[list[float], list[float]]:
    spread = float(np.ptp(losses)) or 1.0
    low = [chance + 0.1, -60 / spread, float(losses.min()) - spread, max(0.0, chance - NEAR_CHANCE)]
    return low, [TOP, -0.1 / spread, float(losses.max()), chance + NEAR_CHANCE]


def _starts(losses: Array, scores: Array, chance: float, count: int, rng: np.random.Generator) -> list[Array]:
    """One where the data suggests it, the others anywhere in the box, slopes by their logarithm."""
    low, high = _bounds(losses, chance)
    spread = float(np.ptp(losses)) or 1.0
    first = np.array([min(TOP, scores.max() + 0.1), -6 / spread, float(np.median(losses)), chance])
    others = [rng.uniform(low, high) for _ in range(count - 1)]
    for start in others:
        start[1] = -np.exp(rng.uniform(np.log(0.5), np.log(40))) / spread
    return [first, *others]


def _curve(x: Array) -> Sigmoid:
    return Sigmoid(c=float(x[0] - x[3]), gamma=float(x[1]), l=float(x[2]), d=float(x[3]))


def _logistic(x: Array) -> Array:
    value: Array = 1 / (1 + np.exp(-np.clip(x, -500, 500)))
    return value
