"""attend: group sizes 1 to 16, all head sizes, prefill, decoding and both at once, splits of 256 keys half full."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from whimbrel.ops.cases import normal, step


@dataclass(frozen=True, slots=True)
class AttendCase:
    """``sequences`` of (tokens in the cache, tokens of this step)."""

    sequences: tuple[tuple[int, int], ...]
    heads: int
    groups: int
    dim: int
    peak: float = 1.0
    """factor on q: large ones make the softmax pick single keys"""

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        sequences = "_".join(f"{past}+{new}" for past, new in self.sequences)
        return f"S{sequences}-H{self.heads}-G{self.groups}-D{self.dim}-peak{self.peak:g}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op but cache and layer, and what the cache holds: ``keys`` and ``values`` per sequence."""
        rng = np.random.default_rng(seed)
        inputs = step(self.sequences, rng)
        shape = (self.groups, self.dim)
        return {
            "q": normal(rng, len(inputs.positions), self.heads, self.dim) * np.float32(self.peak),
            "inputs": inputs,
            "scale": self.dim**-0.5,
            "keys": [normal(rng, int(length), *shape) for length in inputs.kv_lengths],
            "values": [normal(rng, int(length), *shape) for length in inputs.kv_lengths],
        }


CASES = (
    *(AttendCase(((0, 37), (70, 1), (5, 3)), 2 * share, 2, 64) for share in (1, 3, 8, 16)),
    *(AttendCase(((0, 65), (300, 2)), 6, 2, dim) for dim in (64, 80, 96, 128)),
    *(AttendCase(((past, 1),), 9, 3, 64) for past in (0, 1, 63, 64, 255, 256, 257, 600)),
    *(AttendCase(((0, new),), 3, 1, 64) for new in (1, 2, 3, 64, 130, 300)),
    AttendCase(((200, 150), (0, 1), (511, 1), (64, 64)), 4, 2, 64),
    AttendCase(((500, 5),), 6, 2, 64, peak=30.0),
    AttendCase(((40, 5), (513, 1)), 32, 2, 128),
)
