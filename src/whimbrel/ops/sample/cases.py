"""sample: each filter alone and all together, ties, forbidden tokens, vocabularies of odd size."""

from dataclasses import dataclass
from typing import Any

import numpy as np

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


@dataclass(frozen=True, slots=True)
class SampleCase:
    """``changes`` to the options that switch everything off."""

    vocab_size: int
    changes: tuple[tuple[str, float], ...] = ()
    spread: float = 3.0
    """standard deviation of the logits"""
    ties: bool = False
    """logits rounded to whole numbers"""
    forbidden: float = 0.0
    """share of tokens at -inf"""

    @property
    def name(self) -> str:
        """Unique within ``CASES``."""
        changes = "".join(f"-{key}={value:g}" for key, value in self.changes)
        return f"V{self.vocab_size}-s{self.spread:g}{changes}{'-ties' * self.ties}{'-inf' * (self.forbidden > 0)}"

    def arrays(self, seed: int = 0) -> dict[str, Any]:
        """Arguments of the op, all but ``uniform``."""
        rng = np.random.default_rng(seed)
        logits = rng.standard_normal(self.vocab_size, dtype=np.float32) * np.float32(self.spread)
        logits = np.round(logits) if self.ties else logits
        logits[rng.random(self.vocab_size) < self.forbidden] = -np.inf
        return {"logits": logits, **OFF, **dict(self.changes)}


ALL_FILTERS = (("temperature", 0.7), ("top_k", 40), ("top_p", 0.95), ("min_p", 0.02), ("typical_p", 0.9))
CASES = (
    *(SampleCase(1000, (change,)) for change in (("temperature", 0.0), *ALL_FILTERS)),
    *(SampleCase(73, (change,), ties=True) for change in (("temperature", 0.0), *ALL_FILTERS)),
    *(SampleCase(333, (change,), forbidden=0.9) for change in (("temperature", 0.0), *ALL_FILTERS)),
    *(SampleCase(vocab_size, ALL_FILTERS) for vocab_size in (1, 2, 17, 4099)),
    SampleCase(4099, ALL_FILTERS, ties=True, forbidden=0.5),
    SampleCase(4099, (("top_p", 0.999),), spread=0.1),
    SampleCase(4099, (("typical_p", 0.2),), spread=6.0),
    SampleCase(4099, (("temperature", 1e-4),)),
    SampleCase(97, (("top_k", 1),)),
    SampleCase(97, (("top_p", 1e-9),)),
    SampleCase(97, (("min_p", 1.0),)),
    SampleCase(97, (("top_k", 1000),)),
)
