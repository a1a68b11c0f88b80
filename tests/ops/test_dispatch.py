"""Choosing an implementation: lazily, explicitly, and with reasons."""

import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from whimbrel.errors import InvalidParameter, UnsupportedImplementation
from whimbrel.ops import dispatch
from whimbrel.ops.embedding import embedding
from whimbrel.ops.linear_residual import linear_residual
from whimbrel.ops.table import OpTable


def test_the_table_has_a_field_for_every_folder() -> None:
    assert {field.name for field in fields(OpTable)} - {"implementations"} == set(dispatch.names())


def test_bind_resolves_every_op_and_records_it() -> None:
    table = dispatch.bind("reference")
    assert all(callable(getattr(table, name)) for name in dispatch.names())
    assert dict(table.implementations) == dict.fromkeys(dispatch.names(), "reference")


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(InvalidParameter, match=r"'rms_norm'.*norm_linear"):
        dispatch.get("rms_norm")
    with pytest.raises(UnsupportedImplementation, match="cuda can't serve: there is no such"):
        dispatch.bind("cuda")
    with pytest.raises(UnsupportedImplementation, match="no 'fp8' activations; it has exact, int8, bf16"):
        dispatch.bind("reference", activations="fp8")


def test_an_explicit_implementation_never_falls_back() -> None:
    x, weight = np.zeros((1, 32), np.float32), torch.zeros(16, 32)
    with pytest.raises(UnsupportedImplementation, match="reference works on torch tensors, got numpy.ndarray"):
        linear_residual(x, weight, x[:, :16], impl="reference")


def test_auto_takes_the_implementation_that_fits_the_arrays_and_tells_all_reasons_if_none_does() -> None:
    table = torch.arange(6.0).reshape(3, 2)
    assert embedding(np.array([2], np.int32), table, scale=2.0).tolist() == [[8.0, 10.0]]
    with pytest.raises(UnsupportedImplementation, match=r"native can't serve.*reference can't serve"):
        linear_residual("x", table, table)


def test_explain_lists_every_pair_and_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [module for module in sys.modules if module.startswith("whimbrel.ops") and "reference" in module]:
        monkeypatch.delitem(sys.modules, name)
    support = {(row.op, row.implementation): row.why_not for row in dispatch.explain()}
    assert set(support) == {(name, impl) for name in dispatch.names() for impl in dispatch.IMPLEMENTATIONS}
    assert support["attend", "reference"] == dispatch.OPTIONAL_MODULES["torch"]


def test_an_op_without_a_triton_kernel_says_so_and_bind_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dispatch.get("norm_linear").why_not("triton") == dispatch.NO_KERNEL
    support = {(row.op, row.implementation): row for row in dispatch.explain()}
    assert support["norm_linear", "triton"].module is None
    pytest.importorskip("triton")
    from whimbrel.ops import triton

    if triton.why_not_here() is not None:
        with pytest.raises(UnsupportedImplementation, match="no CUDA device; set TRITON_INTERPRET=1"):
            dispatch.bind("triton")
    monkeypatch.setattr(triton, "why_not_here", lambda: None)
    table = dispatch.bind("triton")
    assert {name for name, impl in table.implementations.items() if impl == "triton"} == {
        "semantic_kernels", "block_scores", "select_blocks", "attend"
    }  # fmt: skip
    assert table.implementations["norm_linear"] == "reference"


def test_triton_refuses_what_its_kernels_cannot_reach() -> None:
    pytest.importorskip("triton")
    from whimbrel.ops import triton

    if triton.INTERPRETED:
        pytest.skip("under the interpreter the CPU will do")
    q, cache = torch.zeros(1, 2, 64), SimpleNamespace(pool=None)
    for message, x in {
        "torch tensors, got numpy.ndarray": q.numpy(),
        "got torch.float64": q.double(),
        "CUDA tensors, or TRITON_INTERPRET=1": q,
    }.items():
        with pytest.raises(UnsupportedImplementation, match=message):
            dispatch.get("attend").choose("triton", x, cache)
    assert dispatch.get("attend").choose("auto", q, cache).__module__ == "whimbrel.ops.attend.reference"


def test_an_import_error_of_our_own_is_not_taken_for_a_missing_extra() -> None:
    op = dispatch.Op("broken", {"native": "whimbrel.ops.no_such_module"})
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        op.why_not("native")


@pytest.mark.parametrize("module", ["whimbrel.ops.dispatch", "whimbrel.models.decoder", "whimbrel.ops.sample"])
def test_torch_is_not_imported_before_the_reference_is_used(module: str) -> None:
    code = f"import sys, {module}; from whimbrel.ops.dispatch import names, get; [get(n) for n in names()]; "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_choosing_costs_microseconds_and_a_bound_op_nothing() -> None:
    table = dispatch.bind("reference")
    assert table.attend is dispatch.get("attend").choose("reference")
