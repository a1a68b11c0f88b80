"""norm_linear: every layout; odd numbers of tokens; outputs that fill no whole row block; with and without options."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from whimbrel.ops.cases import COMMON_KINDS, KINDS, WeightKind, inputs_for, near_one, normal

EPS = 1e-5


@dataclass(frozen=True, slots=True)
class NormLinearCase:
    """``tokens`` rows of K = ``width`` through matrices with ``outputs`` rows."""

    tokens: int
    width: int
    outputs: tuple[int, ...]
    kind: WeightKind
    norm: bool = True
    bias: bool = False
    scale: float = 1.0
    outlier: float = 0.0
    """added to one input of the first row: the massive activations of first positions"""

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        options = "-norm" * self.norm + "-bias" * self.bias + f"-outlier{self.outlier:g}" * bool(self.outlier)
        outputs = "+".join(map(str, self.outputs))
        return f"T{self.tokens}-K{self.width}-N{outputs}-{self.kind.name}{options}-x{self.scale:g}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op."""
        rng = np.random.default_rng(seed)
        x = normal(rng, self.tokens, self.width)
        x[0, self.width // 3] += np.float32(self.outlier)
        return {
            "x": x,
            "norm_weight": near_one(rng, self.width) if self.norm else None,
            "weights": tuple(self.kind.make(rng, rows, self.width) for rows in self.outputs),
            "eps": EPS,
            "bias": normal(rng, sum(self.outputs)) if self.bias else None,
            "scale": self.scale,
        }


CASES = (
    *(NormLinearCase(tokens, inputs_for(kind), (33,), kind) for kind in KINDS for tokens in (1, 5)),
    *(NormLinearCase(tokens, 576, (48, 17), kind) for kind in COMMON_KINDS for tokens in (2, 3, 4, 37, 65)),
    *(NormLinearCase(3, width, (16, 5, 64), kind) for kind in COMMON_KINDS for width in (96, 1536)),
    *(NormLinearCase(2, 96, (40, 8, 8), kind, bias=True) for kind in COMMON_KINDS),
    *(NormLinearCase(9, 96, (40,), kind, norm=False, scale=0.25) for kind in COMMON_KINDS),
    *(NormLinearCase(3, 576, (40,), kind, norm=False, outlier=3000.0) for kind in COMMON_KINDS),
)
