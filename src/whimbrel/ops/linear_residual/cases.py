"""linear_residual: every layout; odd numbers of tokens; outputs that fill no whole row block; rows of zeros."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from whimbrel.ops.cases import COMMON_KINDS, KINDS, WeightKind, inputs_for, normal


@dataclass(frozen=True, slots=True)
class LinearResidualCase:
    """``tokens`` rows of K = ``width`` through a matrix with ``outputs`` rows."""

    tokens: int
    width: int
    outputs: int
    kind: WeightKind
    scale: float = 1.0
    zeros: bool = False
    """the first row of x is zero, so that an 8-bit scale is"""

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        zeros = "-zeros" * self.zeros
        return f"T{self.tokens}-K{self.width}-N{self.outputs}-{self.kind.name}-x{self.scale:g}{zeros}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op."""
        rng = np.random.default_rng(seed)
        x = normal(rng, self.tokens, self.width)
        if self.zeros:
            x[0] = 0
        weight = self.kind.make(rng, self.outputs, self.width)
        return {"x": x, "weight": weight, "residual": normal(rng, self.tokens, self.outputs), "scale": self.scale}


CASES = (
    *(LinearResidualCase(1, inputs_for(kind), 33, kind) for kind in KINDS),
    *(LinearResidualCase(tokens, 1536, 40, kind, 0.2857738) for kind in COMMON_KINDS for tokens in (1, 2, 3, 37, 65)),
    *(LinearResidualCase(2, 96, 17, kind, zeros=True) for kind in COMMON_KINDS),
)
