"""embedding, norm_linear, linear_residual and norm_swiglu: every case, implementation and rounding of activations.

Errors are bounded by those of the reference in the precision that the kernel claims. Rows must not depend on the rows
beside them, nor on threads, bit by bit.
"""

from functools import cache
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from harness import WHY_NO_NATIVE, needs_native, on_every_isa, reference, run

from whimbrel.errors import UnsupportedImplementation
from whimbrel.ops.cases import FLOAT_KINDS, KINDS, WeightKind
from whimbrel.ops.dispatch import ACTIVATIONS, get
from whimbrel.ops.reference import ACTIVATION_GROUP, round_activations
from whimbrel.testing.tolerance import assert_as_good_as

if WHY_NO_NATIVE is None:
    from whimbrel import _native

MATRIX_OPS = ("norm_linear", "linear_residual", "norm_swiglu")
CASES = [(name, case) for name in MATRIX_OPS for case in import_module(f"whimbrel.ops.{name}.cases").CASES]
EVERY_CASE = pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}-{case.name}" for name, case in CASES])
EVEN_CASES = [(name, case) for name, case in CASES if not (getattr(case, "outlier", 0) or getattr(case, "zeros", 0))]
EVERY_EVEN_CASE = pytest.mark.parametrize(
    ("name", "case"), EVEN_CASES, ids=[f"{name}-{case.name}" for name, case in EVEN_CASES]
)
"""Those whose rows have errors of one size."""
EMBEDDING_CASES = import_module("whimbrel.ops.embedding.cases").CASES


def matmul_in_order(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sums one product after the other, in fp32; torch's own product has many partial sums and errs a third of it."""
    products = (np.cumsum(x.numpy() * column, -1, np.float32)[:, -1] for column in weight.T.numpy())
    return torch.from_numpy(np.stack(list(products), -1))


@cache
def arrays_of(case: Any, seed: int = 0) -> dict[str, Any]:
    """The arguments of a case, built once; ops don't change them."""
    arrays: dict[str, Any] = case.arrays(seed)
    return arrays


@cache
def references(name: str, case: Any, activations: str, seed: int) -> tuple[Any, Any]:
    """What the precision that a kernel claims gives (rounded activations, then fp32), and the exact result."""
    arrays = arrays_of(case, seed)
    with patch.object(torch, "matmul", matmul_in_order):
        low = reference(name, arrays, torch.float32, activations=activations)
    return low.numpy(), reference(name, arrays, torch.float64).numpy()


@on_every_isa
@EVERY_CASE
def test_native_is_as_good_as_low_precision(name: str, case: Any, isa: str) -> None:
    """A single row has too few outputs for its largest error to mean much: three of them are taken together."""
    seeds = range(3) if case.tokens == 1 else range(1)
    for activations in ACTIVATIONS["native"]:
        actual = [run(name, "native", arrays_of(case, seed), activations=activations) for seed in seeds]
        low, exact = zip(*(references(name, case, activations, seed) for seed in seeds), strict=True)
        assert_as_good_as(*map(np.concatenate, (actual, low, exact)))


@on_every_isa
@EVERY_EVEN_CASE
def test_native_errs_no_more_than_fp32_once_activations_are_rounded(name: str, case: Any, isa: str) -> None:
    """Rounding hides small mistakes, so it is taken out here: both references see rounded activations.

    The median errors, because fp32 and fp64 round a few activations to different sides.
    """
    arrays = arrays_of(case)
    for activations in ACTIVATIONS["native"]:
        exact = reference(name, arrays, torch.float64, activations=activations).numpy()
        low, _ = references(name, case, activations, 0)
        actual = run(name, "native", arrays, activations=activations)
        assert np.median(abs(actual - exact)) <= 2 * np.median(abs(low - exact))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_activations_are_rounded_as_specified(kind: WeightKind) -> None:
    weight = kind.make(np.random.default_rng(0), 16, 1536)
    x = torch.randn(4, 1536, dtype=torch.float64) * torch.logspace(-4, 4, 1536)
    x[1] = 0
    in_bf16 = x.bfloat16().double()
    by_layout = {"f32": x, "f16": x, "bf16": in_bf16}
    assert round_activations(x, weight, "exact") is x
    assert torch.equal(round_activations(x, weight, "bf16"), by_layout.get(kind.layout, in_bf16))
    rounded = round_activations(x, weight, "int8")
    if kind in FLOAT_KINDS:
        assert torch.equal(rounded, by_layout[kind.layout])
        return
    groups, rounded_groups = (part.reshape(4, -1, ACTIVATION_GROUP) for part in (x, rounded))
    step = groups.abs().amax(-1, keepdim=True) / 127
    codes = rounded_groups / step.clamp(min=1e-300)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-9)
    assert ((rounded_groups - groups).abs() <= step * 0.5000001).all()
    assert (codes.abs().amax(-1)[[0, 2, 3]].round() == 127).all()
    assert not rounded[1].any()


@EVERY_CASE
def test_reference_in_low_precision_is_near_the_exact_one(name: str, case: Any) -> None:
    arrays = case.arrays()
    exact = reference(name, arrays, torch.float64)
    torch.testing.assert_close(reference(name, arrays, torch.float32).double(), exact, rtol=1e-4, atol=1e-4)
    assert reference(name, arrays, torch.bfloat16).dtype == torch.bfloat16


@on_every_isa
@EVERY_CASE
def test_a_row_does_not_depend_on_its_neighbours(name: str, case: Any, isa: str) -> None:
    arrays = arrays_of(case)
    for activations in ACTIVATIONS["native"]:
        together = run(name, "native", arrays, activations=activations)
        for first in range(0, case.tokens, 7):
            for stop in {first + 1, min(first + 5, case.tokens)}:
                part = arrays | {key: arrays[key][first:stop] for key in ("x", "residual") if key in arrays}
                np.testing.assert_array_equal(run(name, "native", part, activations=activations), together[first:stop])


@on_every_isa
@EVERY_CASE
def test_threads_do_not_change_a_bit(name: str, case: Any, isa: str) -> None:
    arrays = arrays_of(case)
    for activations in ACTIVATIONS["native"]:
        results = []
        for threads in (1, 2):
            _native.set_num_threads(threads)
            results.append(run(name, "native", arrays, activations=activations))
        np.testing.assert_array_equal(*results)


@on_every_isa
@pytest.mark.parametrize("case", EMBEDDING_CASES, ids=lambda case: case.name)
def test_embedding_native_is_the_scaled_row_of_the_definition(case: Any, isa: str) -> None:
    arrays = case.arrays()
    rows = arrays["table"].dequantize()[arrays["token_ids"]]
    actual = run("embedding", "native", arrays)
    assert_as_good_as(actual, np.float32(case.scale) * rows, case.scale * rows.astype(np.float64))


@pytest.mark.parametrize("case", EMBEDDING_CASES, ids=lambda case: case.name)
def test_embedding_reference_is_the_scaled_row(case: Any) -> None:
    arrays = case.arrays()
    expected = np.float32(case.scale) * arrays["table"].dequantize()[arrays["token_ids"]]
    np.testing.assert_array_equal(run("embedding", "reference", arrays).numpy(), expected)


@pytest.mark.parametrize(
    ("impl", "error"), [("reference", IndexError), pytest.param("native", ValueError, marks=needs_native)]
)
def test_embedding_refuses_ids_outside_the_table(impl: str, error: type[Exception]) -> None:
    arrays = EMBEDDING_CASES[0].arrays()
    arrays["token_ids"][0] = EMBEDDING_CASES[0].rows
    with pytest.raises(error):
        run("embedding", impl, arrays)


@pytest.mark.parametrize("activations", ["exact", "bf16", "int8"])
def test_rounding_passes_gradients_straight_through(activations: str) -> None:
    weight = CASES[-1][1].arrays()["up"]
    x = torch.randn(3, weight.shape[1], requires_grad=True)
    run("linear_residual", "reference", {"x": x, "weight": weight, "residual": torch.zeros(3, weight.shape[0])},
        activations=activations).sum().backward()  # fmt: skip
    torch.testing.assert_close(x.grad, torch.from_numpy(weight.dequantize()).sum(0).expand(3, -1))


@needs_native
def test_native_says_what_it_needs() -> None:
    arrays = CASES[0][1].arrays()
    wrong = {
        "got torch.Tensor": torch.from_numpy(arrays["x"]),
        "contiguous float32, got float64": arrays["x"].astype(np.float64),
        "with strides": arrays["x"][:, ::2],
    }
    for message, x in wrong.items():
        with pytest.raises(UnsupportedImplementation, match=message):
            get("norm_linear").choose("native", x, arrays["weights"])
    with pytest.raises(UnsupportedImplementation, match="packed weights, got numpy.ndarray"):
        get("norm_linear").choose("native", arrays["x"], (arrays["x"],))
