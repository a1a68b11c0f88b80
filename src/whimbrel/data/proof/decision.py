"""Is the gain real? A paired bootstrap over seeds and items, and a rule that one bad benchmark can veto.

With d_b the candidate's mean score on benchmark b minus the baseline's, a candidate is accepted when the mean of d_b over
the benchmarks exceeds two standard errors, and no d_b is below minus two of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whimbrel.errors import InvalidParameter

RESAMPLES = 2000
ERRORS = 2.0


@dataclass(frozen=True)
class Gain:
    """A difference of means, with its standard error."""

    mean: float
    error: float


@dataclass(frozen=True)
class Decision:
    """The gain over the baseline, in all and per benchmark. ``harmed``: benchmarks that veto."""

    accepted: bool
    gain: Gain
    benchmarks: Mapping[str, Gain]
    harmed: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """In words."""
        if self.harmed:
            return f"rejected: worse on {', '.join(self.harmed)}"
        if self.accepted:
            return "accepted"
        return "rejected: " + ("no gain" if self.gain.mean <= 0 else "the gain is within two standard errors")


Runs = Sequence[Mapping[str, NDArray[np.float64]]]
"""per seed: benchmark -> items' scores"""


def decide(candidate: Runs, baseline: Runs, *, resamples: int = RESAMPLES, seed: int = 0) -> Decision:
    """Compare runs of the same seeds, pair by pair. Raises InvalidParameter when they do not pair up.

    With a single seed the spread between trainings is unknown, so errors cover the items alone; use three or more.
    """
    differences = _pairs(candidate, baseline)
    draw = np.random.default_rng(seed)
    seeds = draw.integers(0, len(candidate), (resamples, len(candidate)))
    means = {name: _resampled(values, seeds, draw) for name, values in differences.items()}
    benchmarks = {
        name: Gain(float(values.mean()), float(means[name].std(ddof=1))) for name, values in differences.items()
    }
    together = np.mean(list(means.values()), axis=0)
    gain = Gain(float(np.mean([g.mean for g in benchmarks.values()])), float(together.std(ddof=1)))
    harmed = tuple(name for name, found in benchmarks.items() if found.mean < -ERRORS * found.error)
    return Decision(gain.mean > ERRORS * gain.error and not harmed, gain, benchmarks, harmed)


def _pairs(candidate: Runs, baseline: Runs) -> dict[str, NDArray[np.float64]]:
    """Benchmark -> differences [seeds, items]."""
    if not candidate or len(candidate) != len(baseline):
        raise InvalidParameter(
            f"{len(candidate)} runs can't be paired with {len(baseline)}; want the same seeds, 1 or more"
        )
    names = list(candidate[0])
    if not names or any(list(run) != names for run in (*candidate, *baseline)):
        raise InvalidParameter("every run must be scored on the same benchmarks, at least one")
    found = {}
    for name in names:
        sizes = {len(run[name]) for run in (*candidate, *baseline)}
        if len(sizes) != 1 or 0 in sizes:
            raise InvalidParameter(f"benchmark {name} has {sorted(sizes)} items; want the same in every run")
        pairs = zip(candidate, baseline, strict=True)
        found[name] = np.array([one[name] - other[name] for one, other in pairs], np.float64)
    return found


def _resampled(values: NDArray[np.float64], seeds: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.float64]:
    """Means of resampled seeds and items [resamples]; the seeds are drawn once for all benchmarks, as runs are shared."""
    items = (
        draw.multinomial(values.shape[1], np.full(values.shape[1], 1 / values.shape[1]), len(seeds)) / values.shape[1]
    )
    by_seed = items @ values.T  # [resamples, seeds]
    means: NDArray[np.float64] = np.take_along_axis(by_seed, seeds, axis=1).mean(axis=1)
    return means
