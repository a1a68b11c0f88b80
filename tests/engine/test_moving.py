"""Blocks at other positions: what was moved is what would have been computed there, as far as it depends on positions."""

from typing import Any

import numpy as np
import pytest
from test_engine_document import IDS, engine_of, native, read

from whimbrel.attention.sparse import SparseConfig
from whimbrel.engine.moving import Mover

OTHER = np.random.default_rng(1).integers(5, 260, 3 * 64).astype(np.int32)
SPARSE = SparseConfig(dense_len=10**6)


def layer_0(data: Any, layout: Any) -> Any:
    """Bytes of layer 0: its keys and values depend on tokens and positions, not on what was attended."""
    return data.reshape(layout.num_blocks, 2, -1)[:, 0]


def keys_of(mover: Mover, data: Any, layout: Any) -> Any:
    heads = np.ascontiguousarray(layer_0(data, layout)).reshape(-1, mover._head_bytes)
    return mover._keys(heads)


@native
@pytest.mark.parametrize("rope", ["plain", "yarn"])
@pytest.mark.parametrize("use_nope", [False, True])
@pytest.mark.parametrize("kv_dtype", ["bf16", "q8"])
def test_moved_blocks_are_those_that_would_have_been_computed_there(kv_dtype: str, use_nope: bool, rope: str) -> None:
    changes: dict[str, Any] = {"sparse_config": {**SPARSE.to_hf(), "use_nope": use_nope}}
    if rope == "yarn":
        changes["rope_scaling"] = {
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256
        }  # fmt: skip
    engines = [engine_of(changes, kv_dtype=kv_dtype) for _ in range(3)]
    first, *_ = read(engines[0], IDS)
    alone = read(engines[1], OTHER)
    data, codes, scales = read(engines[2], np.concatenate([IDS, OTHER]))
    layout, whole = engines[1].documents.layout(3), engines[2].documents.layout(8)
    mover = engines[1].documents.mover(len(IDS))
    moved, moved_codes, moved_scales = mover.move(*alone, layout, first[-layout.block_bytes :])
    expected = keys_of(mover, data, whole)[5:]
    found = keys_of(mover, moved, layout)
    step = 2**-7 if kv_dtype == "bf16" else 2 / 127
    assert np.abs(found - expected).max() <= step * np.abs(expected).max()
    assert np.abs(keys_of(mover, alone[0], layout) - expected).max() > 0.5  # they had to move
    values = slice(mover._dim * 64 * (1 if kv_dtype == "q8" else 2), None)
    if kv_dtype == "bf16":
        same = layer_0(moved, layout)[:, values] == layer_0(data, whole)[5:][:, values]
        assert same.all()
    for block in range(3):
        one = kernels(layout, moved_codes, moved_scales, block)
        two = kernels(whole, codes, scales, 5 + block)
        assert np.abs(one - two).max() <= 3 / 127 * np.abs(two).max(), block


def kernels(layout: Any, codes: Any, scales: Any, block: int) -> Any:
    """Semantic kernels of layer 0 of a block, [heads, dim / 4, 4 kernels, 4 dims]."""
    found, factors = layout.kernels_of(codes, scales, block)
    rows = layout.kernel_rows // 2
    values = found[:rows].astype(np.float32).reshape(rows, -1, 4, 4) - 128
    return values * factors[:rows, None, :, None]
