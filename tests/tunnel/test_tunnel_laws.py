"""The loss law comes back from losses that follow it, StepLaw's numbers are the report's, and a bad ladder is refused."""

import numpy as np
import pytest

from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.tunnel.ladder import LossLaw, LossPoint, fit_ladder
from whimbrel.tunnel.steplaw import predict

TRUE = LossLaw(a=400.0, alpha=0.33, b=900.0, beta=0.3, e=1.7)


def made(noise: float = 0.0) -> list[LossPoint]:
    rng = np.random.default_rng(0)
    return [
        LossPoint(f"{n:g}", n, d, float(TRUE(n, d) * np.exp(noise * rng.standard_normal())))
        for n in (1e6, 4e6, 16e6, 64e6)
        for d in (20 * 1e6, 80 * 1e6, 320 * 1e6, 1280 * 1e6)
    ]


def test_the_law_of_exact_losses_is_found_again() -> None:
    law = fit_ladder(made(), resamples=0).law
    assert (law.alpha, law.beta, law.e) == pytest.approx((0.33, 0.3, 1.7), rel=0.02)
    assert float(law(1e9, 2e10)) == pytest.approx(float(TRUE(1e9, 2e10)), rel=1e-3)
    assert law.parameters_for(float(law(5e7, 1e9)), 1e9) == pytest.approx(5e7)


def test_a_held_out_run_lies_in_the_band() -> None:
    fit = fit_ladder(made(0.003), resamples=80)
    low, high = fit.band(128e6, 2.5e9, inside=0.98)  # one seed of ten is outside a band of 90%
    assert low < TRUE(128e6, 2.5e9) < high < 1.05 * low


def test_too_small_a_ladder_is_refused() -> None:
    with pytest.raises(UsageError, match="3 runs of 3 sizes and 1 numbers of tokens"):
        fit_ladder([LossPoint("m", n, 1e9, 3.0) for n in (1e6, 2e6, 4e6)])
    with pytest.raises(UsageError, match="no model reaches"):
        TRUE.parameters_for(1.6, 1e12)


@pytest.mark.parametrize(
    ("parameters", "tokens", "rate", "sequences"),
    [
        (150e6, 4e9, 2.39e-3, 48), (150e6, 10e9, 3.17e-3, 80), (150e6, 20e9, 3.92e-3, 112), (360e6, 20e9, 2.10e-3, 112),
        (360e6, 40e9, 2.60e-3, 160), (360e6, 100e9, 3.44e-3, 272), (700e6, 40e9, 1.62e-3, 160), (700e6, 100e9, 2.14e-3, 272),
    ],
)  # fmt: skip
def test_steplaw_says_what_the_report_used(parameters: float, tokens: float, rate: float, sequences: int) -> None:
    """Rates to 2%: the paper's formula has its exponents rounded to three digits, the report's numbers have not."""
    found = predict(parameters, tokens)
    assert found.rate == pytest.approx(rate, rel=0.02)
    assert found.sequences == sequences


def test_steplaw_wants_positive_numbers() -> None:
    with pytest.raises(InvalidParameter, match="must be positive"):
        predict(0, 1e9)
