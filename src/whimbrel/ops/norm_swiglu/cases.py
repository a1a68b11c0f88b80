"""norm_swiglu: every layout; odd numbers of tokens; inner sizes that fill no whole row block."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from whimbrel.ops.cases import COMMON_KINDS, KINDS, WeightKind, inputs_for, near_one, normal

EPS = 1e-5


@dataclass(frozen=True, slots=True)
class NormSwigluCase:
    """``tokens`` rows of K = ``width`` through gate and up with ``inner`` rows each."""

    tokens: int
    width: int
    inner: int
    kind: WeightKind

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        return f"T{self.tokens}-K{self.width}-F{self.inner}-{self.kind.name}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op."""
        rng = np.random.default_rng(seed)
        return {
            "x": normal(rng, self.tokens, self.width),
            "norm_weight": near_one(rng, self.width),
            "gate": self.kind.make(rng, self.inner, self.width),
            "up": self.kind.make(rng, self.inner, self.width),
            "eps": EPS,
        }


CASES = (
    *(NormSwigluCase(5, inputs_for(kind), 33, kind) for kind in KINDS),
    *(NormSwigluCase(tokens, 576, 96, kind) for kind in COMMON_KINDS for tokens in (2, 3, 37, 65)),
)
