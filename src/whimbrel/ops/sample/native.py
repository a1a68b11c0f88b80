"""sample for the engine: ``_native.sample`` where the module has it, else numpy on the candidates that are left.

The full-length reference sorts the vocabulary, 3 ms at 49,152 tokens, half of a small model's step. Here every filter
first cuts the candidates down: a partition for top-k, the 1,024 largest for top-p.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel import _native
from whimbrel.ops.native import needs_float32
from whimbrel.ops.sample import log_normalizer
from whimbrel.ops.sample.reference import keep_typical, softmax

NUCLEUS = 1024
"""Candidates that top-p sorts first; more only if they don't hold its mass."""

Ids = npt.NDArray[np.intp]
Scores = npt.NDArray[np.float64]


def why_not(logits: Any) -> str | None:
    """Needs float32 numpy input."""
    return needs_float32(logits)


def run(
    logits: Any,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    uniform: float = 0.0,
) -> tuple[int, float]:
    """Logits [V] fp32 to a token and its log probability."""
    if _in_module is not None:
        token_id, logprob = _in_module(logits, temperature, top_k, top_p, min_p, typical_p, uniform)
        return token_id, logprob
    return in_numpy(logits, temperature, top_k, top_p, min_p, typical_p, uniform)


_in_module = getattr(_native, "sample", None)


def in_numpy(
    logits: npt.NDArray[np.float32],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    typical_p: float,
    uniform: float,
) -> tuple[int, float]:
    """The specification on a shrinking set of candidates, ids ascending throughout."""
    normalizer = log_normalizer(logits)
    if temperature == 0:
        token_id = int(logits.argmax())
        return token_id, float(logits[token_id]) - normalizer
    ids = _largest(logits, top_k)
    scores = logits[ids].astype(np.float64) / temperature
    if top_p < 1:
        ids, scores = _nucleus(ids, scores, top_p)
    if min_p > 0:
        likely = np.exp(scores - scores.max()) >= min_p
        ids, scores = ids[likely], scores[likely]
    cumulative = np.cumsum(softmax(keep_typical(scores, typical_p)))
    token_id = int(ids[np.searchsorted(cumulative, uniform * cumulative[-1], side="right")])
    return token_id, float(logits[token_id]) - normalizer


def _largest(logits: npt.NDArray[np.float32], top_k: int) -> Ids:
    """Ids, ascending, of all logits at least as large as the ``top_k``-th."""
    if not 0 < top_k < logits.shape[0]:
        return np.arange(logits.shape[0])
    return np.flatnonzero(logits >= np.partition(logits, -top_k)[-top_k])


def _nucleus(ids: Ids, scores: Scores, top_p: float) -> tuple[Ids, Scores]:
    """The candidates that top-p keeps, ids ascending."""
    probabilities = softmax(scores)
    head = np.arange(len(ids))
    if len(ids) > NUCLEUS:
        largest = np.flatnonzero(probabilities >= np.partition(probabilities, -NUCLEUS)[-NUCLEUS])
        head = largest if probabilities[largest].sum() >= top_p else head
    order = head[np.argsort(-probabilities[head], kind="stable")]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    kept = np.sort(np.concatenate([order[:1], order[1:][before[1:] < top_p]]))
    return ids[kept], scores[kept]
