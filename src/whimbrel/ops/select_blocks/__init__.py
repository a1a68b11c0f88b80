"""select_blocks: the blocks that each token attends to, per key/value head (stage 1 of InfLLM v2, whole).

    sel(t) = the ``topk + window_size / 64`` blocks of highest score (see ``block_scores``), ties to the lower block,
             without those beyond t's own

For: the lists that ``attend`` reads.
In: as ``block_scores``.
Out: int32 [G, T, topk + window_size / 64]: block numbers within the sequence, ascending, -1 behind the last one. A token
that attends to everything has an empty list (only -1): its position p has p + 1 < dense_len, or there are no more
blocks than the list holds. None if that holds for all tokens of the step.
May not: depend on chunking or on other rows. Whether a token is sparse follows from its own position, so that reading a
prompt in chunks gives what reading it at once gives; the published code decides by the length of the whole prompt, and
differs for tokens between 96 blocks and dense_len (here dense, there sparse).
Accumulation: fp32. Native scores 8-bit kernels: near ties may fall the other way. Not differentiable.
Source: InfLLM-V2 (2025), section 3.2.
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def select_blocks(
    q: Any,
    inputs: Any,
    cache: Any,
    layer: int,
    *,
    scale: float,
    sparse: Any,
    rope: Any | None = None,
    impl: str = "auto",
) -> Any:
    """Block lists of all tokens; the module's docstring is the specification."""
    run = OP.choose(impl, q, cache, sparse)
    return run(q, inputs, cache, layer, scale=scale, sparse=sparse, rope=rope)
