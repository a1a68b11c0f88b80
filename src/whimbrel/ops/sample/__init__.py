"""sample: one token from one row of scores.

For: the last step of decoding, after the engine has applied penalties and biases to the row.
In: ``logits`` fp32 [V], ``-inf`` where a token is forbidden; keyword parameters, below; ``uniform`` in [0, 1).
Out: ``(token_id, logprob)``; ``logprob`` is the log-softmax of the given logits at that token, without temperature or
filters. ``top_logprobs`` gives the n likeliest tokens with theirs.
May not: draw random numbers (the caller does, so a seed means one text whatever computes it), or change ``logits``.
Raises ``ValueError`` if the largest logit isn't finite (all forbidden, or a NaN).

Temperature 0 takes the largest logit, the lowest id among equals. Else, in this order, each step on the distribution
that the one before left over (renormalized), as the warpers of ``transformers`` define them:

    temperature   z = logits / temperature
    top_k         keep z >= the k-th largest z, equals included; 0 keeps all
    top_p         in descending order (lower ids first among equals), keep a token while the sum before it is < top_p
    min_p         keep p >= min_p * max p
    typical_p     in ascending order of |-log p - entropy|: the last one kept is that at index "number of partial sums
                  < typical_p" (at most the last); keep all at most as far from the entropy as that one

1, 1, 0 and 1 switch ``temperature``, ``top_p``, ``min_p`` and ``typical_p`` off. Then the first id, in the order of
ids, at which the cumulative probability of the kept tokens exceeds ``uniform``.
Accumulation: probabilities in at least fp32, their sums in float64; the reference computes all in float64. So choices
may differ where ``uniform`` or a filter's bound falls within rounding of a token's edge. Not differentiable.
Sources: top-k Fan et al. (2018); top-p Holtzman et al. (2020); typical Meister et al. (2023); min-p Nguyen et al. (2024).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def sample(
    logits: Any,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    uniform: float = 0.0,
    impl: str = "auto",
) -> tuple[int, float]:
    """One token and its log probability; the module's docstring is the specification."""
    run = OP.choose(impl, logits)
    token_id, logprob = run(
        logits,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
        uniform=uniform,
    )
    return token_id, logprob


def top_logprobs(logits: npt.NDArray[np.float32], n: int) -> list[tuple[int, float]]:
    """The ``n`` likeliest tokens of ``logits`` [V] with their log-softmax, best first, lower ids first among equals."""
    normalizer = log_normalizer(logits)
    if n <= 0:
        return []
    threshold = np.partition(logits, -n)[-n] if n < logits.shape[0] else -np.inf
    candidates = np.flatnonzero(logits >= threshold)
    best = candidates[np.argsort(-logits[candidates], kind="stable")[:n]]
    return [(int(token_id), float(logits[token_id]) - normalizer) for token_id in best]


def log_normalizer(logits: npt.NDArray[np.float32]) -> float:
    """``log(sum(exp(logits)))``, terms in fp32, their sum in float64. Raises ``ValueError`` if the largest isn't finite."""
    largest = logits.max()
    if not np.isfinite(largest):
        raise ValueError(f"can't sample: none of {len(logits)} logits is finite, or one is a NaN")
    return float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
