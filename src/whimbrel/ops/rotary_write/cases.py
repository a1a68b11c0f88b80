"""rotary_write: several sequences at once, block borders, all head sizes, with and without norms."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from whimbrel.ops.cases import near_one, normal, step

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class RotaryWriteCase:
    """``sequences`` of (tokens in the cache, tokens of this step)."""

    sequences: tuple[tuple[int, int], ...]
    heads: int
    groups: int
    dim: int
    norms: bool = False

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        sequences = "_".join(f"{past}+{new}" for past, new in self.sequences)
        return f"S{sequences}-H{self.heads}-G{self.groups}-D{self.dim}{'-norms' * self.norms}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op, all but the cache and the layer."""
        rng = np.random.default_rng(seed)
        inputs = step(self.sequences, rng)
        positions = int(inputs.positions.max()) + 1
        angles = np.outer(np.arange(positions), 10000.0 ** (-np.arange(0, self.dim, 2) / self.dim))
        tables = (np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
        return {
            "qkv": normal(rng, len(inputs.positions), (self.heads + 2 * self.groups) * self.dim),
            "rope": SimpleNamespace(cos=tables[0], sin=tables[1]),
            "inputs": inputs,
            "q_norm": near_one(rng, self.dim) if self.norms else None,
            "k_norm": near_one(rng, self.dim) if self.norms else None,
            "eps": EPS,
        }


CASES = (
    *(RotaryWriteCase(((0, 5), (63, 2), (128, 1)), 6, 2, dim) for dim in (64, 80, 96, 128)),
    RotaryWriteCase(((0, 1),), 1, 1, 64),
    RotaryWriteCase(((0, 65),), 9, 3, 64),
    RotaryWriteCase(((64, 64), (1, 37)), 16, 2, 64),
    RotaryWriteCase(((3, 4), (0, 130)), 4, 2, 128, norms=True),
)
