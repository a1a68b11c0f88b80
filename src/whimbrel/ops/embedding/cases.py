"""embedding: every layout, table rows that fill no whole row block, repeated and extreme ids."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from whimbrel.ops.cases import KINDS, WeightKind, inputs_for


@dataclass(frozen=True, slots=True)
class EmbeddingCase:
    """``tokens`` ids into a table [rows, width]."""

    tokens: int
    rows: int
    width: int
    kind: WeightKind
    scale: float = 1.0

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        return f"T{self.tokens}-V{self.rows}-K{self.width}-{self.kind.name}-x{self.scale:g}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op; the first and last rows of the table are among the ids."""
        rng = np.random.default_rng(seed)
        ids = rng.integers(0, self.rows, self.tokens).astype(np.int32)
        ids[0], ids[-1] = 0, self.rows - 1
        return {"token_ids": ids, "table": self.kind.make(rng, self.rows, self.width), "scale": self.scale}


CASES = (
    *(EmbeddingCase(3, 49, inputs_for(kind), kind) for kind in KINDS),
    *(EmbeddingCase(tokens, 33, 96, WeightKind("q4", 32), scale=12.0) for tokens in (1, 2, 37, 65)),
)
