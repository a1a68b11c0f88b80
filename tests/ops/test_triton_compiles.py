"""Every Triton kernel compiles for Hopper, down to machine code, without a GPU: the interpreter doesn't check types."""

import re
from typing import Any

import pytest

triton = pytest.importorskip("triton")
triton_ops = pytest.importorskip("whimbrel.ops.triton", exc_type=ImportError)
from whimbrel.ops.attend import triton as attend
from whimbrel.ops.block_scores import triton as block_scores
from whimbrel.ops.select_blocks import triton as select_blocks
from whimbrel.ops.semantic_kernels import triton as semantic_kernels
from whimbrel.train import fp8_kernels

pytestmark = pytest.mark.skipif(triton_ops.INTERPRETED, reason="under the interpreter there is nothing to compile")

TYPES = {
    "*i32": "names_ptr members_ptr counts_ptr tiles_ptr positions_ptr lists_ptr",
    "*i64": "masks_ptr starts_ptr",
    "*fp32": "lse_ptr part_lse_ptr delta_ptr sums_ptr scores_ptr parts_ptr scales_ptr",
    "*fp8e4nv": "codes_ptr",
    "fp32": "scale scale_log2",
}
TILE = triton_ops.shape_of_tile(16, 4, 128) | {"PRECISION": "tf32"}
FORWARD = TILE | {"BLOCK": 64}
KERNELS = {
    "attend prefill listed": (attend._forward, FORWARD | {"LISTED": True, "TREE": False, "SPLIT": 0}),
    "attend prefill dense": (attend._forward, FORWARD | {"LISTED": False, "TREE": False, "SPLIT": 0}),
    "attend decode tree": (attend._forward, FORWARD | {"LISTED": True, "TREE": True, "SPLIT": 2}),
    "attend merge": (attend._merge, {"D": 128, "D_PAD": 128}),
    "attend dq": (attend._backward_queries, FORWARD),
    "attend dk dv": (attend._backward_keys, FORWARD),
    "scores sums": (block_scores._sums, TILE | {"SIZE": 128, "STEP": 64, "COLUMNS": 64}),
    "scores": (
        block_scores._scores,
        TILE | {"SIZE": 32, "STEP": 16, "BLOCK": 64, "INIT": 1, "LOCAL": 32, "BLOCKS": 32},
    ),
    "top-k": (select_blocks._choose, {"K": 96, "WIDTH": 2048}),
    "fp8 rows": (fp8_kernels._quantize, {"ROWS": 32, "COLUMNS": 128, "BY_ROW": True}),
    "fp8 blocks": (fp8_kernels._quantize, {"ROWS": 128, "COLUMNS": 128, "BY_ROW": False}),
    "means": (semantic_kernels._means, {"SIZE": 32, "SIZE_PAD": 32, "STRIDE": 16, "D": 128, "D_PAD": 128}),
}


def type_of(name: str, constants: dict[str, Any]) -> str:
    """What a launch with bf16 tensors would pass."""
    if name in constants:
        return "constexpr"
    known = next((kind for kind, names in TYPES.items() if name in names.split()), None)
    return known or ("*bf16" if name.endswith("_ptr") else "i32")


@pytest.mark.parametrize("name", KERNELS)
def test_it_compiles_and_uses_the_matrix_unit(name: str) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, constants = KERNELS[name]
    source = ASTSource(
        fn=kernel,
        signature={argument: type_of(argument, constants) for argument in kernel.arg_names},
        constexprs={(kernel.arg_names.index(key),): value for key, value in constants.items()},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 2})
    assert compiled.metadata.shared <= 227 * 1024
    if "M" in constants:
        assert re.search(r"wgmma|mma\.sync", compiled.asm["ptx"])
