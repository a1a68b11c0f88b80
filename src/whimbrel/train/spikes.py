"""Loss spikes: batches that would hurt are recognised before the step, skipped and reported."""

import math
from collections import deque
from dataclasses import dataclass

from whimbrel.errors import InvalidParameter


@dataclass(frozen=True, kw_only=True, slots=True)
class SpikeRule:
    """When a batch is skipped, and when a run is given up."""

    deviations: float = 8.0
    """a loss that is so many standard deviations above the mean of the window is a spike; 0 looks for none"""
    window: int = 50
    patience: int = 20
    """so many batches skipped in a row end the run: the rate is too high, or the data is broken"""

    def __post_init__(self) -> None:
        if self.deviations < 0 or self.window < 2 or self.patience < 1:
            raise InvalidParameter(
                f"spikes: deviations {self.deviations} must be at least 0, window {self.window} at least 2, "
                f"patience {self.patience} at least 1"
            )


class Spikes:
    """The last losses of a run, and what they say about the next one."""

    def __init__(self, rule: SpikeRule, losses: list[float] | None = None, in_a_row: int = 0) -> None:
        self.rule = rule
        self.losses = deque(losses or [], maxlen=rule.window)
        self.in_a_row = in_a_row

    def why_skip(self, loss: float, gradient_norm: float) -> str | None:
        """The reason to skip a batch, or None; remembers the loss in the second case."""
        reason = None
        if not math.isfinite(loss):
            reason = f"the loss is {loss}"
        elif not math.isfinite(gradient_norm):
            reason = f"the gradient's norm is {gradient_norm}"
        elif self.rule.deviations and len(self.losses) == self.rule.window:
            mean = sum(self.losses) / len(self.losses)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in self.losses) / len(self.losses))
            # 2% of the mean: a run that has converged has a deviation of nothing
            if loss > mean + self.rule.deviations * max(deviation, 0.02 * abs(mean)):
                reason = f"the loss of {loss:.4g} is a spike over {mean:.4g} +- {deviation:.2g}"
        self.in_a_row = self.in_a_row + 1 if reason else 0
        if reason is None:
            self.losses.append(loss)
        return reason
