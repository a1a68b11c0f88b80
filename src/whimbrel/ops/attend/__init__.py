"""attend: causal softmax attention of this step's queries over all keys of their sequence.

    out[t, h] = sum_j softmax_j(scale * q[t, h] . k[j, g]) v[j, g]       g = h // (H / G), j <= position of t

For: dense attention in decoding (few rows, many keys) and prefill (many of both).
In: ``q`` [T, H, D] fp32, rotated; ``inputs`` (which rows belong to which sequence, how many keys it has); ``cache``, a
KVView that already holds this step's keys and values. H is a multiple of G.
Out: [T, H * D] fp32, heads after each other.
May not: let a row's result depend on the other rows, on chunking or on threads: native computes fixed splits of 256
keys and merges them in order.
Accumulation: fp32, online softmax. The cache's rounding (bf16, 8 bits) is part of the input; native may round ``q`` and
the probabilities to bf16. Reference: everything in the dtype of ``q``, the softmax in at least fp32.
Differentiable in ``q``, and in keys and values through a cache that keeps gradients.
Source: Vaswani et al. (2017); grouped heads, Ainslie et al. (2023); online softmax, Milakov and Gimelshein (2018).
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def attend(q: Any, inputs: Any, cache: Any, layer: int, *, scale: float, impl: str = "auto") -> Any:
    """Causal attention over the cache; the module's docstring is the specification."""
    return OP.choose(impl, q, cache)(q, inputs, cache, layer, scale=scale)
