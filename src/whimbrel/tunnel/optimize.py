"""SciPy's optimizers, late: which function minimises what is decided here, once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.errors import MissingExtra

Array = npt.NDArray[np.float64]


def scipy_optimize() -> Any:
    """``scipy.optimize``. Raises MissingExtra."""
    try:
        import scipy.optimize
    except ImportError:
        raise MissingExtra("fitting needs scipy: pip install 'whimbrel[tunnel]'") from None
    return scipy.optimize


def least_squares(
    residuals: Callable[[Array], Array],
    starts: Sequence[Array],
    low: Sequence[float],
    high: Sequence[float],
    *,
    huber: float,
    scales: Sequence[float],
) -> tuple[Array, float]:
    """The best of bounded Huber least squares from several starts: parameters and cost. ``huber``: where it turns linear."""
    optimize = scipy_optimize()
    best: tuple[Array, float] | None = None
    for start in starts:
        found = optimize.least_squares(
            residuals, np.clip(start, low, high), bounds=(low, high), loss="huber", f_scale=huber, x_scale=scales
        )
        if best is None or found.cost < best[1]:
            best = found.x, float(found.cost)
    assert best is not None
    return best


def minimize(
    cost: Callable[[Array], tuple[float, Array]], starts: Sequence[Array], bounds: Sequence[tuple[float, float]]
) -> tuple[Array, float]:
    """The best of bounded L-BFGS from several starts: parameters and cost. ``cost`` also returns its gradient."""
    optimize = scipy_optimize()
    runs = [
        optimize.minimize(cost, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": 3000})
        for start in starts
    ]
    best = min(runs, key=lambda run: float(run.fun))
    return np.asarray(best.x, float), float(best.fun)
