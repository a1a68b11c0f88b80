"""The one bound for numerical errors: a kernel may err twice as much as plain low precision does.

Nobody sets a tolerance by hand. Three results of one computation are compared: ``exact`` in float64,
``low_precision`` by the reference in the precision the kernel claims (bf16, or with rounded activations), and the
kernel's own. The bound then scales with dtype, length and shape by itself. Source: the test rule of FlashAttention.
"""

from typing import Any

import numpy as np

FACTOR = 2.0
"""How much worse than the low-precision reference's largest error a kernel's may be."""


def assert_as_good_as(actual: Any, low_precision: Any, exact: Any, *, factor: float = FACTOR) -> None:
    """Assert ``max |actual - exact| <= factor * max |low_precision - exact|``; shapes equal, everything finite.

    Takes numpy arrays and torch tensors of any floating dtype. The message names the worst element.
    """
    actual64, low64, exact64 = (_as_float64(values) for values in (actual, low_precision, exact))
    assert actual64.shape == exact64.shape == low64.shape, f"{actual64.shape}, {low64.shape}, {exact64.shape}"
    assert np.isfinite(exact64).all() and np.isfinite(low64).all(), "the references themselves are not finite"
    assert np.isfinite(actual64).all(), f"{(~np.isfinite(actual64)).sum()} of {actual64.size} values are not finite"
    if actual64.size == 0:
        return
    errors = np.abs(actual64 - exact64)
    allowed = factor * np.abs(low64 - exact64).max()
    worst = np.unravel_index(errors.argmax(), errors.shape)
    assert errors.max() <= allowed, (
        f"error {errors.max():.3g} at {tuple(map(int, worst))} (got {actual64[worst]:.6g}, exact {exact64[worst]:.6g}) "
        f"is more than {factor:g} times the low-precision reference's {allowed / factor:.3g}"
    )


def _as_float64(values: Any) -> Any:
    if hasattr(values, "detach"):
        values = values.detach().double().numpy()
    return np.asarray(values, np.float64)
