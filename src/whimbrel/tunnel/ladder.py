"""The loss law L(N, D) = a N^-alpha + b D^-beta + e, fitted to a ladder of small runs.

Source: Densing Law (2024), equation 2, has no e, which is for a conditional loss that tends to 0; for the loss of plain
text e is what no model predicts (Hoffmann et al. 2022). Fitted as those do: L-BFGS on the Huber loss of the logarithm's
error, from many starts. The band is of single runs: fits to resampled residuals, and a residual on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from whimbrel.errors import UsageError
from whimbrel.tunnel.optimize import Array, minimize

HUBER = 1e-3


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One run that ended."""

    model: str
    parameters: float
    """without embeddings"""
    tokens: float
    loss: float
    run: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossLaw:
    """The five parameters."""

    a: float
    alpha: float
    b: float
    beta: float
    e: float

    def __call__(self, parameters: Array | float, tokens: Array | float) -> Array:
        """Losses of models and numbers of training tokens."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        return np.asarray(self.a * n**-self.alpha + self.b * d**-self.beta + self.e)

    def parameters_for(self, loss: float, tokens: float) -> float:
        """The model size that reaches a loss with so many tokens. Raises UsageError where none does."""
        rest = loss - self.b * tokens**-self.beta - self.e
        if rest <= 0:
            raise UsageError(f"no model reaches a loss of {loss:g} with {tokens:.3g} tokens: more are needed")
        return float((rest / self.a) ** (-1 / self.alpha))


@dataclass(frozen=True, kw_only=True, slots=True)
class LadderFit:
    """A law and what is known about it."""

    law: LossLaw
    resampled: tuple[LossLaw, ...]
    residuals: tuple[float, ...]
    """log of observed over fitted"""

    def band(self, parameters: float, tokens: float, inside: float = 0.9, seed: int = 0) -> tuple[float, float]:
        """Between which losses one more run ends, in ``inside`` of the resampled fits."""
        rng = np.random.default_rng(seed)
        noise = np.exp(rng.choice(self.residuals, len(self.resampled)))
        losses = np.array([float(law(parameters, tokens)) for law in self.resampled]) * noise
        low, high = np.quantile(losses, [0.5 - inside / 2, 0.5 + inside / 2])
        return float(low), float(high)


def fit_ladder(
    points: Sequence[LossPoint], *, irreducible: bool = True, resamples: int = 100, seed: int = 0
) -> LadderFit:
    """Fit the law. Without ``irreducible`` e is 0.

    Raises UsageError for fewer points than parameters + 1, or fewer than 3 sizes or numbers of tokens.
    """
    sizes, lengths = ({point.parameters for point in points}, {point.tokens for point in points})
    needed = 6 if irreducible else 5
    if len(points) < needed or min(len(sizes), len(lengths)) < 3:
        raise UsageError(
            f"{len(points)} runs of {len(sizes)} sizes and {len(lengths)} numbers of tokens can't fix the law; "
            f"at least {needed} runs of 3 sizes and 3 numbers of tokens were expected"
        )
    n, d, losses = (np.array([getattr(p, name) for p in points], float) for name in ("parameters", "tokens", "loss"))
    starts = [
        np.array(
            [np.log(losses.min()) + x * alpha, alpha, np.log(losses.min()) + y * beta, beta, np.log(e * losses.min())]
        )
        for alpha, beta, e in product((0.2, 0.5), (0.2, 0.5), (0.3, 0.8))
        for x, y in [(np.log(n).mean(), np.log(d).mean())]
    ]
    best = _fit(n, d, np.log(losses), starts, irreducible)
    fitted = np.log(_law(best, irreducible)(n, d))
    residuals = np.log(losses) - fitted
    rng = np.random.default_rng(seed)
    wide = residuals * np.sqrt(len(points) / max(1, len(points) - needed + 1))  # residuals are smaller than errors
    again = [
        _law(_fit(n, d, fitted + rng.choice(wide, len(points)), [best], irreducible), irreducible)
        for _ in range(resamples)
    ]
    return LadderFit(law=_law(best, irreducible), resampled=tuple(again), residuals=tuple(float(x) for x in wide))


def _fit(n: Array, d: Array, target: Array, starts: Sequence[Array], irreducible: bool) -> Array:
    """Parameters (log a, alpha, log b, beta, log e)."""
    log_n, log_d = np.log(n), np.log(d)

    def cost(x: Array) -> tuple[float, Array]:
        terms = np.stack([x[0] - x[1] * log_n, x[2] - x[3] * log_d, np.full_like(log_n, x[4])])[
            : 3 if irreducible else 2
        ]
        total = np.logaddexp.reduce(terms)
        error, shares = total - target, np.exp(terms - total)
        small = np.abs(error) < HUBER
        slope = np.where(small, error / HUBER, np.sign(error))
        value = np.where(small, error**2 / (2 * HUBER), np.abs(error) - HUBER / 2).sum()
        by = [shares[0], -shares[0] * log_n, shares[1], -shares[1] * log_d]
        by.append(shares[2] if irreducible else np.zeros_like(log_n))
        return float(value), np.array([float((slope * part).sum()) for part in by])

    bounds = [(-10.0, 60.0), (0.01, 2.0), (-10.0, 60.0), (0.01, 2.0), (-10.0, float(target.min()))]
    best, _ = minimize(cost, starts, bounds)
    return best


def _law(x: Array, irreducible: bool) -> LossLaw:
    a, b = (float(np.exp(value)) for value in (x[0], x[2]))
    return LossLaw(a=a, alpha=float(x[1]), b=b, beta=float(x[3]), e=float(np.exp(x[4])) if irreducible else 0.0)
