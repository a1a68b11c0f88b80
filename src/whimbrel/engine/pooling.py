"""Pooled: one vector of a prompt, from its hidden states after the final norm, whatever chunks it is read in.

    mean    the average over all tokens of the prompt
    last    the state of its last token, the one that an answer would begin from

Sums are in float64 and one token after the other, so that the same prompt gives the same bits in one chunk or in many.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]


class Pooled:
    """The vector of one sequence while its prompt is read."""

    __slots__ = ("_sum", "kind", "tokens")

    def __init__(self, kind: str) -> None:
        """``kind``: "mean" or "last"."""
        self.kind = kind
        self.tokens = 0
        """of the prompt, that are in the vector; a sequence that gave its blocks back reads them again for nothing"""
        self._sum: npt.NDArray[np.float64] | None = None

    def add(self, normed: Rows) -> None:
        """The states [n, hidden] of the next tokens."""
        self.tokens += len(normed)
        rows = normed[-1:].astype(np.float64) if self.kind == "last" else normed.astype(np.float64)
        if self._sum is not None and self.kind == "mean":
            rows = np.concatenate((self._sum[None], rows))
        self._sum = np.add.reduce(rows, axis=0)

    def vector(self) -> npt.NDArray[np.float32]:
        """[hidden] float32."""
        assert self._sum is not None, "the prompt has been read"
        return (self._sum / (self.tokens if self.kind == "mean" else 1)).astype(np.float32)


def rms_normed(hidden: Rows, weight: Any, eps: float) -> Rows:
    """RMSNorm of rows [n, hidden] in fp32: the final norm, which elsewhere is part of the head's own op."""
    scale = 1 / np.sqrt(np.mean(np.square(hidden, dtype=np.float64), axis=1, keepdims=True) + eps)
    normed: Rows = hidden * scale.astype(np.float32) * np.asarray(weight, np.float32)
    return normed
