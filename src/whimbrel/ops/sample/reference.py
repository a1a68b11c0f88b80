"""sample in numpy, one full-length vector per step of the specification."""

from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


def why_not(logits: Any) -> str | None:
    """Serves everything: torch tensors are converted."""
    return None


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
    """Logits [V] to a token and its log probability."""
    scores = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(scores.max()):
        raise ValueError(f"can't sample: none of {len(scores)} logits is finite, or one is a NaN")
    token_id = int(scores.argmax())
    if temperature > 0:
        kept = keep_typical(keep_min_p(keep_top_p(keep_top_k(scores / temperature, top_k), top_p), min_p), typical_p)
        cumulative = np.cumsum(softmax(kept))
        token_id = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return token_id, float(np.log(softmax(scores)[token_id]))


def softmax(scores: Scores) -> Scores:
    """Probabilities [V]; ``-inf`` becomes 0."""
    exponentials = np.exp(scores - scores.max())
    return np.asarray(exponentials / exponentials.sum())


def keep_top_k(scores: Scores, top_k: int) -> Scores:
    """``-inf`` below the k-th largest."""
    if not 0 < top_k < len(scores):
        return scores
    return np.where(scores >= np.sort(scores)[-top_k], scores, -np.inf)


def keep_top_p(scores: Scores, top_p: float) -> Scores:
    """``-inf`` outside the smallest head of the sorted distribution that holds ``top_p``."""
    if top_p >= 1:
        return scores
    order = np.argsort(-scores, kind="stable")
    probabilities = softmax(scores)[order]
    before = np.cumsum(probabilities) - probabilities
    dropped = order[1:][before[1:] >= top_p]
    kept = scores.copy()
    kept[dropped] = -np.inf
    return kept


def keep_min_p(scores: Scores, min_p: float) -> Scores:
    """``-inf`` where the probability is below ``min_p`` times the largest."""
    probabilities = softmax(scores)
    return np.where(probabilities >= min_p * probabilities.max(), scores, -np.inf)


def keep_typical(scores: Scores, typical_p: float) -> Scores:
    """``-inf`` where the surprise is further from the entropy than the mass ``typical_p`` reaches."""
    if typical_p >= 1:
        return scores
    probabilities = softmax(scores)
    possible = probabilities > 0
    surprise = np.full_like(scores, np.inf)
    surprise[possible] = -np.log(probabilities[possible])
    entropy = np.sum(probabilities[possible] * surprise[possible])
    distance = np.abs(surprise - entropy)
    order = np.argsort(distance, kind="stable")
    last = min(int(np.sum(np.cumsum(probabilities[order]) < typical_p)), len(order) - 1)
    return np.where(distance <= distance[order[last]], scores, -np.inf)
