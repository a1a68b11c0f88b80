"""Learning rates by step: WSD, cosine, and StepLaw's choice of the rate. Steps count from 0.

Sources: MiniCPM (2024), section 4.2 (WSD; the decays beside the exponential one are those of Hägele et al. 2024, Scaling
Laws and Compute-Optimal Training Beyond Fixed Training Durations); Li et al. (2025), Predictable Scale: StepLaw.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from whimbrel.errors import InvalidParameter

DECAYS = ("exponential", "linear", "sqrt")
STEP_LAW_LAST = 1e-5
"""The learning rate with which StepLaw's runs end, whatever their peak."""


class Schedule(Protocol):
    """What a run asks of a schedule."""

    @property
    def peak(self) -> float:
        """the largest learning rate"""
        ...

    @property
    def total(self) -> int:
        """steps of the run"""
        ...

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class WSD:
    """Warmup, stable, decay; all in steps.

    A decay can start from any checkpoint of the stable part: the run that decays has ``total`` = that checkpoint's step
    + ``decay``, and begins with it. Until then both see the same rates and batches.
    """

    peak: float
    """the learning rate of the stable part"""
    warmup: int
    total: int
    decay: int
    """steps of the last part, in which the rate falls to ``floor`` of the peak; the paper finds 10% of all enough"""
    floor: float = 0.05
    kind: str = "exponential"
    """how it falls: exponential, linear, or sqrt (1 minus the root of the part that is done)"""

    def __post_init__(self) -> None:
        lowest = 0.0 if self.kind in ("linear", "sqrt") else 1e-12
        if self.kind not in DECAYS:
            raise InvalidParameter(f"WSD: kind {self.kind!r} is unknown; choose one of {', '.join(DECAYS)}")
        if self.peak <= 0 or not lowest <= self.floor <= 1:
            raise InvalidParameter(f"WSD: peak {self.peak} must be above 0, floor {self.floor} in (0, 1]")
        if min(self.warmup, self.decay) < 0 or self.warmup + self.decay > self.total:
            raise InvalidParameter(
                f"WSD: {self.warmup} steps of warmup and {self.decay} of decay do not fit in {self.total}"
            )

    @property
    def stable_end(self) -> int:
        """The first step of the decay."""
        return self.total - self.decay

    def rate(self, step: int) -> float:
        """Linear up, constant, down to ``floor`` of the peak at the last step."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        into_decay = step - self.stable_end
        if into_decay < 0:
            return self.peak
        done = min(1.0, (into_decay + 1) / self.decay)
        if self.kind == "exponential":
            return float(self.peak * self.floor**done)
        return self.peak * (1 - (1 - self.floor) * (done if self.kind == "linear" else math.sqrt(done)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosine:
    """Warmup, then half a cosine from the peak to ``floor`` of it."""

    peak: float
    warmup: int
    total: int
    floor: float = 0.1

    def __post_init__(self) -> None:
        if self.peak <= 0 or not 0 <= self.floor <= 1:
            raise InvalidParameter(f"cosine: peak {self.peak} must be above 0, floor {self.floor} in [0, 1]")
        if self.warmup < 0 or self.total < 1 or self.warmup > self.total:
            raise InvalidParameter(f"cosine: {self.warmup} steps of warmup do not fit in {self.total}")

    def rate(self, step: int) -> float:
        """Linear up, then ``floor + (1 - floor) (1 + cos(pi x)) / 2`` of the peak, x the part that is done."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup + 1) / max(1, self.total - self.warmup))
        return self.peak * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)


def step_law_rate(parameters: int, tokens: int) -> float:
    """StepLaw's learning rate for so many parameters (without embeddings) and training tokens."""
    return float(1.79 * parameters**-0.713 * tokens**0.307)


def step_law_batch(tokens: int) -> float:
    """StepLaw's batch, in tokens, for a run over so many tokens."""
    return float(0.58 * tokens**0.571)


def step_law(parameters: int, tokens: int, *, warmup: int, total: int) -> Cosine:
    """StepLaw's schedule: its rate as the peak, a cosine that ends at 1e-5."""
    peak = step_law_rate(parameters, tokens)
    return Cosine(peak=peak, warmup=warmup, total=total, floor=min(1.0, STEP_LAW_LAST / peak))
