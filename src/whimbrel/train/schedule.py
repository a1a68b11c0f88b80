"""WSD: a learning rate that warms up, stays, and decays. Source: MiniCPM (2024), section 4.2."""

from dataclasses import dataclass

from whimbrel.errors import InvalidParameter


@dataclass(frozen=True, kw_only=True, slots=True)
class WSD:
    """Warmup, stable, decay; all in steps."""

    peak: float
    """the learning rate of the stable part"""
    warmup: int
    total: int
    decay: int
    """steps of the last part, in which the rate falls to ``floor`` of the peak; the paper finds 10% of all enough"""
    floor: float = 0.05

    def __post_init__(self) -> None:
        if self.peak <= 0 or not 0 < self.floor <= 1:
            raise InvalidParameter(f"WSD: peak {self.peak} must be above 0, floor {self.floor} in (0, 1]")
        if min(self.warmup, self.decay) < 0 or self.warmup + self.decay > self.total:
            raise InvalidParameter(
                f"WSD: {self.warmup} steps of warmup and {self.decay} of decay do not fit in {self.total}"
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: linear up, constant, exponential down."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        into_decay = step - (self.total - self.decay)
        if into_decay < 0:
            return self.peak
        return float(self.peak * self.floor ** min(1.0, (into_decay + 1) / self.decay))
