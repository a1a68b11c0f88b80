"""norm_swiglu: RMSNorm, two matrices, and the gated unit between them.

    n   = x / sqrt(mean(x^2) + eps) * norm_weight
    out = silu(n W_gate^T) * (n W_up^T)              silu(a) = a / (1 + exp(-a))

For: the first half of the MLP.
In: ``x`` [T, K] fp32; ``norm_weight`` fp32 [K]; ``gate`` and ``up`` weights [F, K] of one layout.
Out: [T, F] fp32.
May not: round anything but ``n``, as ``ops/norm_linear`` says under *Activations*.
Accumulation: fp32. Reference: in the dtype of ``x``. Differentiable in all arrays.
Source: Shazeer (2020), GLU Variants Improve Transformer.
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def norm_swiglu(x: Any, norm_weight: Any, gate: Any, up: Any, *, eps: float, impl: str = "auto") -> Any:
    """``silu(gate(RMSNorm(x))) * up(RMSNorm(x))``; the module's docstring is the specification."""
    return OP.choose(impl, x, (gate, up))(x, norm_weight, gate, up, eps=eps)
