"""select_blocks: head groups 1 to 20, all head sizes, decoding and prefill across the dense length, both normalisers."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from whimbrel.ops.cases import normal, step


@dataclass(frozen=True, slots=True)
class SelectCase:
    """``sequences`` of (tokens in the cache, tokens of this step); the rest are fields of ``SparseConfig``."""

    sequences: tuple[tuple[int, int], ...]
    heads: int
    groups: int
    dim: int
    topk: int = 4
    window: int = 128
    dense_len: int = 256
    lse: str = "coarse"
    use_nope: bool = False

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        sequences = "_".join(f"{past}+{new}" for past, new in self.sequences)
        sparse = f"k{self.topk}w{self.window}from{self.dense_len}-{self.lse}{'-nope' * self.use_nope}"
        return f"S{sequences}-H{self.heads}-G{self.groups}-D{self.dim}-{sparse}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op but cache and layer, and the ``keys`` of every sequence.

        Keys share a direction that drifts, so that neighbours resemble each other, as real ones do.
        """
        rng = np.random.default_rng(seed)
        inputs = step(self.sequences, rng)
        positions = int(inputs.kv_lengths.max())
        angles = np.outer(np.arange(positions), 10000.0 ** (-np.arange(0, self.dim, 2) / self.dim))
        drift = [
            np.cumsum(normal(rng, int(length), self.groups, self.dim) / 4, 0, dtype=np.float32)
            for length in inputs.kv_lengths
        ]
        return {
            "q": normal(rng, len(inputs.positions), self.heads, self.dim),
            "inputs": inputs,
            "scale": self.dim**-0.5,
            "sparse": self.sparse(),
            "rope": SimpleNamespace(cos=np.cos(angles).astype(np.float32), sin=np.sin(angles).astype(np.float32)),
            "keys": [part / (1 + abs(part).mean(-1, keepdims=True)) for part in drift],
        }

    def sparse(self) -> Any:
        """What ops read of an ``attention.sparse.SparseConfig``, which is out of reach from here."""
        return SimpleNamespace(
            kernel_size=32,
            kernel_stride=16,
            init_blocks=1,
            block_size=64,
            topk=self.topk,
            local_blocks=self.window // 64,
            num_blocks=self.topk + self.window // 64,
            dense_len=self.dense_len,
            use_nope=self.use_nope,
            lse=self.lse,
            estimator="kernels",
        )


CASES = (
    *(SelectCase(((900, 1), (513, 1)), 2 * share, 2, 64) for share in (1, 3, 8, 16, 20)),
    *(SelectCase(((700, 3), (1023, 2)), 6, 2, dim) for dim in (64, 80, 96, 128)),
    *(SelectCase(((past, 1),), 9, 3, 64, lse="exact") for past in (254, 255, 383, 384, 511, 527, 639, 1000)),
    SelectCase(((0, 700),), 6, 2, 64),
    SelectCase(((0, 650),), 3, 1, 64, lse="exact", dense_len=-1),
    SelectCase(((640, 130), (0, 70), (1200, 1)), 8, 2, 64),
    SelectCase(((800, 40),), 6, 2, 64, use_nope=True),
    SelectCase(((3000, 20),), 16, 2, 128, topk=12, window=256),
    SelectCase(((500, 3),), 4, 2, 64, topk=64, window=2048, dense_len=8192),
)
