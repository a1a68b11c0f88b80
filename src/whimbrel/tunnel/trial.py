"""Trial and Outcome: one run of a sweep, and what came of it. Plain data, so that a ledger and other machines can have it."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from whimbrel.errors import FormatError, InvalidParameter

DONE, STOPPED, DIVERGED = "done", "stopped", "diverged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What differs between the runs of a sweep; everything else is the sweep's recipe."""

    width: int
    """hidden size"""
    rate: float
    """the schedule's peak learning rate, at the base width where the parametrization has one"""
    tokens_per_step: int
    steps: int
    seed: int = 0
    parametrization: str = "mup"
    """mup or standard"""

    def __post_init__(self) -> None:
        if min(self.width, self.tokens_per_step, self.steps) < 1 or not 0 < self.rate < math.inf:
            raise InvalidParameter(
                f"trial: width {self.width}, tokens_per_step {self.tokens_per_step}, steps {self.steps} and rate "
                f"{self.rate:g} must be positive"
            )

    @property
    def key(self) -> str:
        """Its name in the ledger; different trials have different names."""
        return f"{self.group}-lr{self.rate:.6g}-s{self.seed}"

    @property
    def group(self) -> str:
        """Of the trials that compete: they differ in learning rate and seed only."""
        return f"{self.parametrization}-w{self.width}-b{self.tokens_per_step}-n{self.steps}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a trial came to."""

    status: str
    """done, stopped (hopeless beside others of its group) or diverged"""
    loss: float | None
    """held-out loss, nats per token; None where the run did not finish"""
    curve: tuple[tuple[int, float], ...]
    """(step, training loss)"""
    parameters: int
    """without embeddings and output head, as StepLaw counts"""
    tokens: int
    seconds: float
    reason: str = ""
    """of what was not done"""
    extra: Mapping[str, float] | None = None
    """other measurements, by name"""


Bars = tuple[tuple[int, float], ...]
"""(step, loss): a run whose training loss at that step is above it is hopeless."""

Runner = Callable[[Trial, Bars], Outcome]
"""Trains; a watcher in it should end the run where a bar is missed. Must be picklable to leave the process."""


def to_json(trial: Trial, outcome: Outcome) -> str:
    """A ledger's line, without its end."""
    return json.dumps({"key": trial.key, "trial": asdict(trial), "outcome": asdict(outcome)}, allow_nan=False)


def from_json(line: Mapping[str, Any]) -> tuple[Trial, Outcome]:
    """A ledger's line. Raises FormatError where it is another kind of line."""
    try:
        trial = Trial(**line["trial"])
        known = {field.name for field in fields(Outcome)}
        values = {key: value for key, value in line["outcome"].items() if key in known}
        values["curve"] = tuple((int(step), float(loss)) for step, loss in values["curve"])
        return trial, Outcome(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"a line of the ledger is not a run: {error}") from None


def missed(bars: Bars, step: int, loss: float, before: int) -> str | None:
    """Why a run should end after ``step``: the last bar in (before, step] that ``loss`` is above, in words."""
    for at, bar in reversed(bars):
        if before < at <= step and not loss <= bar:
            return f"loss {loss:.3f} at step {step}, above the bar of {bar:.3f} at step {at}"
    return None
