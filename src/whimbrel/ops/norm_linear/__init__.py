"""norm_linear: RMSNorm, then one or more matrices on the same input.

    n   = x / sqrt(mean(x^2) + eps) * norm_weight        (n = x where norm_weight is None)
    out = scale * (n [W_1; W_2; ...]^T) + bias           outputs after each other

For: the q, k, v projections of a layer; with the final norm, the head (``scale`` is MiniCPM's logit scale).
In: ``x`` [T, K] fp32; ``norm_weight`` fp32 [K] or None; ``weights`` a tuple of weights [N_i, K]; ``bias`` fp32
[sum N_i] or None.
Out: [T, sum N_i] fp32.
May not: round anything but the matrices' input, as below.
Accumulation: fp32 (integer dot products inside a group are exact). Reference: everything in the dtype of ``x``.
Differentiable in all arrays; rounding passes gradients straight through.

Activations. A kernel may round ``n``, and the table of ops says how (``dispatch.bind``):
``int8`` - weights of 4 and 8 bits: to 127 steps of ``max|n| / 127`` per row and group of 32 inputs.
``bf16`` - weights of 4 and 8 bits: to bf16.
With either, weights stored in bf16 meet ``n`` in bf16, and those in f32 and f16 meet it unrounded. ``exact`` rounds
nothing (reference only).
Rows are rounded on their own, so a row's result doesn't depend on the other rows.
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def norm_linear(
    x: Any,
    norm_weight: Any | None,
    weights: tuple[Any, ...],
    *,
    eps: float,
    bias: Any | None = None,
    scale: float = 1.0,
    impl: str = "auto",
) -> Any:
    """``scale * RMSNorm(x) W^T + bias``; the module's docstring is the specification."""
    return OP.choose(impl, x, weights)(x, norm_weight, weights, eps=eps, bias=bias, scale=scale)
