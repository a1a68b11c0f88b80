"""linear_residual: a matrix, added to the residual stream.

    out = residual + scale * x W^T

For: the output projection of attention and the down projection of the MLP; ``scale`` is MiniCPM's
``scale_depth / sqrt(num_hidden_layers)``, 1 elsewhere.
In: ``x`` [T, K] fp32; ``weight`` [N, K]; ``residual`` [T, N] fp32.
Out: [T, N] fp32, new memory: ``residual`` is not changed.
May not: round anything but ``x``, as ``ops/norm_linear`` says under *Activations*.
Accumulation: fp32. Reference: in the dtype of ``x``. Differentiable in all arrays.
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def linear_residual(x: Any, weight: Any, residual: Any, *, scale: float = 1.0, impl: str = "auto") -> Any:
    """``residual + scale * x W^T``; the module's docstring is the specification."""
    return OP.choose(impl, x, weight)(x, weight, residual, scale=scale)
