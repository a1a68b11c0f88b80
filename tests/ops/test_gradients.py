"""Gradients of the references, against finite differences in fp64 (random projections of the Jacobian)."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness import run, to_torch

from whimbrel.attention.dense_view import DenseView
from whimbrel.ops.attend.cases import CASES as ATTEND_CASES
from whimbrel.ops.linear_residual.cases import CASES as LINEAR_CASES
from whimbrel.ops.norm_linear.cases import CASES as NORM_LINEAR_CASES
from whimbrel.ops.norm_swiglu.cases import CASES as SWIGLU_CASES
from whimbrel.ops.rotary_write.cases import CASES as ROTARY_CASES


def leaves(value: Any) -> Any:
    """fp64 tensors that want gradients; packed weights as dense ones."""
    if hasattr(value, "dequantize"):
        value = value.dequantize()
    if isinstance(value, tuple):
        return tuple(leaves(item) for item in value)
    value = to_torch(value, torch.float64)
    return value.requires_grad_() if isinstance(value, torch.Tensor) else value


def check(function: Callable[..., Any], *tensors: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("case", [c for c in NORM_LINEAR_CASES if c.kind.layout == "f32"], ids=lambda c: c.name)
def test_norm_linear(case: Any) -> None:
    arrays = {key: leaves(value) for key, value in case.arrays().items()}
    optional = [name for name in ("norm_weight", "bias") if arrays[name] is not None]

    def function(x: Any, *rest: Any) -> Any:
        options, weights = rest[: len(optional)], rest[len(optional) :]
        return run("norm_linear", "reference", arrays | dict(zip(optional, options, strict=True)), x=x, weights=weights)

    arrays_but_x = {key: value for key, value in arrays.items() if key not in ("x", "weights")}
    tensors = [arrays_but_x[name] for name in optional]
    x, weights = arrays.pop("x"), arrays.pop("weights")
    check(function, x, *tensors, *weights)


@pytest.mark.parametrize("case", [c for c in LINEAR_CASES if c.kind.layout == "f32"], ids=lambda c: c.name)
def test_linear_residual(case: Any) -> None:
    arrays = {key: leaves(value) for key, value in case.arrays().items()}
    scale = arrays.pop("scale")
    names = list(arrays)
    check(
        lambda *values: run("linear_residual", "reference", dict(zip(names, values, strict=True)), scale=scale),
        *arrays.values(),
    )


@pytest.mark.parametrize("case", [c for c in SWIGLU_CASES if c.kind.layout == "f32"], ids=lambda c: c.name)
def test_norm_swiglu(case: Any) -> None:
    arrays = {key: leaves(value) for key, value in case.arrays().items()}
    eps = arrays.pop("eps")
    names = list(arrays)
    check(
        lambda *values: run("norm_swiglu", "reference", dict(zip(names, values, strict=True)), eps=eps),
        *arrays.values(),
    )


def test_embedding() -> None:
    table = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    check(lambda rows: run("embedding", "reference", {"token_ids": [0, 6, 6, 2], "table": rows, "scale": 12.0}), table)


@pytest.mark.parametrize(
    "case", [case for case in ROTARY_CASES if case.dim in (64, 80) or case.norms], ids=lambda c: c.name
)
def test_rotary_write_through_the_cache(case: Any) -> None:
    """Queries, keys and values all keep their gradients."""
    arrays = case.arrays()
    inputs = arrays["inputs"]
    past = [past for past, _ in case.sequences]

    def function(qkv: Any, *norms: Any) -> Any:
        cache = DenseView(case.groups, case.dim)
        zeros = torch.zeros(sum(past), case.groups, case.dim, dtype=qkv.dtype)
        cache.write(0, zeros, zeros, earlier)
        options = dict(zip(("q_norm", "k_norm"), norms, strict=False))
        q = run("rotary_write", "reference", arrays | options, qkv=qkv, cache=cache, layer=0)
        stored = [part for sequence in range(len(past)) for part in cache.read(0, sequence, inputs)]
        return q, *stored

    earlier: Any = SimpleNamespace(cu_seqlens=np.cumsum([0, *past]), kv_lengths=np.array(past))
    norms = [leaves(arrays[name]) for name in ("q_norm", "k_norm") if arrays[name] is not None]
    check(function, leaves(arrays.pop("qkv")), *norms)


@pytest.mark.parametrize("case", [case for case in ATTEND_CASES if case.dim == 64][:9], ids=lambda c: c.name)
def test_attend_in_queries_keys_and_values(case: Any) -> None:
    arrays = case.arrays()
    count = len(case.sequences)

    def function(q: Any, *parts: Any) -> Any:
        view = SimpleNamespace(read=lambda layer, sequence, inputs: (parts[sequence], parts[count + sequence]))
        arguments = {"q": q, "inputs": arrays["inputs"], "cache": view, "layer": 0, "scale": arrays["scale"]}
        return run("attend", "reference", arguments)

    check(function, leaves(arrays["q"]), *(leaves(part) for part in (*arrays["keys"], *arrays["values"])))
