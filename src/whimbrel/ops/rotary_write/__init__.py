"""rotary_write: split q, k, v; normalize and rotate q and k; put k and v into the cache.

    q, k, v = split(qkv)                                    [T, H, D], [T, G, D], [T, G, D]
    q, k    = RMSNorm(q) * q_norm, RMSNorm(k) * k_norm      per head, where given (Qwen3)
    rotate: (a, b) -> (a cos - b sin, b cos + a sin)        a, b = first and second half of D, angle of the position

For: everything between the q, k, v projections and attention. Rotate-half pairs (i, i + D/2), as in GPT-NeoX.
In: ``qkv`` [T, (H + 2 G) D] fp32; ``rope`` with ``cos`` and ``sin`` fp32 [P, D / 2] (amplitude included); ``inputs``
with ``positions`` int32 [T], each < P; ``cache`` (a KVView: G and D are its, H follows); norms fp32 [D] or None.
Out: q rotated, [T, H, D] fp32. In the cache: k and v of this step's tokens, rounded to what the cache stores.
May not: touch other positions of the cache, except that the first token of a block may clear the rest of the block
(a NaN there would survive a zero probability). Positions beyond the table raise ``ValueError`` (reference
``IndexError``).
Accumulation: fp32. Differentiable in ``qkv`` and the norms, through the cache where that keeps gradients (``DenseView``).
Source: Su et al. (2021), RoFormer; the amplitude of LongRoPE is Ding et al. (2024).
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def rotary_write(
    qkv: Any,
    rope: Any,
    inputs: Any,
    cache: Any,
    layer: int,
    *,
    q_norm: Any | None = None,
    k_norm: Any | None = None,
    eps: float = 1e-6,
    impl: str = "auto",
) -> Any:
    """Rotated queries; keys and values go to the cache. The module's docstring is the specification."""
    run = OP.choose(impl, qkv, cache)
    return run(qkv, rope, inputs, cache, layer, q_norm=q_norm, k_norm=k_norm, eps=eps)
