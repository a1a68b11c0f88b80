"""attend: causal softmax attention of this step's queries over the keys of their sequence: all of them, or chosen blocks.

    out[t, h] = sum_j softmax_j(scale * q[t, h] . k[j, g]) v[j, g]       g = h // (H / G), j seen by t

    t sees key j if   j <= position of t                                 without tree_masks
                      j is older than this step, or bit j of mask[t]     with them (j counted among the step's rows)
    and if            block(j) is in blocks[g, t], or that list is empty (-1 only)

For: dense attention, and stage 2 of InfLLM v2; in decoding (few rows, many keys), prefill (many of both) and the
verification of draft trees.
In: ``q`` [T, H, D] fp32, rotated; ``inputs`` (which rows belong to which sequence, how many keys it has, tree masks);
``cache``, a KVView that already holds this step's keys and values; ``blocks`` int32 [G, T, K] as ``select_blocks`` gives
them (ascending, -1 behind the last), or None. H is a multiple of G.
Out: [T, H * D] fp32, heads after each other. Where ``inputs.block_mass`` [S, G, max_blocks] is given, a row that is alone
in its sequence adds the probability of each block, summed over the query heads of g.
May not: let a row's result depend on the other rows, on chunking or on threads: native computes fixed splits of 256
keys, of a listed row one block at a time, and merges them in order. A block number that the sequence doesn't have raises
``ValueError``. Triton: a row depends on no other either, but steps of at most 64 rows are split over the keys and
longer ones are not, so that chunks agree to rounding only.
Accumulation: fp32, online softmax. The cache's rounding (bf16, 8 bits) is part of the input; native may round ``q`` and
the probabilities to bf16. Reference: everything in the dtype of ``q``, the softmax in at least fp32.
Differentiable in ``q``, and in keys and values through a cache that keeps gradients; the lists carry no gradient.
Source: Vaswani et al. (2017); grouped heads, Ainslie et al. (2023); online softmax, Milakov and Gimelshein (2018);
block lists, InfLLM-V2 (2025), section 3.3.
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def attend(
    q: Any, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Any | None = None, impl: str = "auto"
) -> Any:
    """Causal attention over the cache; the module's docstring is the specification."""
    return OP.choose(impl, q, cache)(q, inputs, cache, layer, scale=scale, blocks=blocks)
