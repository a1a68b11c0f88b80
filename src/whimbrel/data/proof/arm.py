"""One training run of a verification, and what it came to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BASELINE = "default mix"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """``share`` of the tokens come from the candidate's shards, the others from the default mix; a baseline has none."""

    name: str
    candidate: tuple[str, ...] = ()
    share: float = 0.3
    seed: int = 0
    from_scratch: bool = False
    """train a fresh model instead of annealing the base: what verification is compared with"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``scores``: per benchmark, one number per item, higher is better (a loss is negated); the same items in every arm."""

    scores: Mapping[str, NDArray[np.float64]]
    tokens: int
    seconds: float
    notes: Mapping[str, Any] = field(default_factory=dict)


TrainAndScore = Callable[[Arm], Outcome]
"""The trainer as verification sees it. Arms of one seed must see their data in one order, but for the candidate's share."""
