"""Both stages of sparse attention for one decoded token, by the product's ops, and what counting block masses costs.

    python -m whimbrel.bench.sparse_attention [--context 131072] [--threads 2]

Random keys, values and kernels in a pool larger than any cache, published constants; medians of 300 layers. Bytes are
those of the 96 blocks (stage 2) and of all kernels (stage 1), beside the memory's read rate.
"""

import argparse
import json
import time
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.attention.sparse import SparseConfig
from whimbrel.bench.bandwidth import MEMORY_BYTES, read_bandwidth
from whimbrel.bench.record import significant
from whimbrel.eval.provenance import provenance
from whimbrel.ops import dispatch

SHAPES = {"smollm2-135m": (9, 3, 64, 10), "minicpm4-0.5b": (16, 2, 64, 14)}
"""Query heads, key/value heads, head_dim, and layers: fewer than the model's, more than caches hold."""
ROUNDS = 30


def measure(shape: tuple[int, int, int, int], context: int) -> dict[str, float]:
    """Microseconds of both stages, shares, and the time with block masses over that without."""
    heads, groups, dim, layers = shape
    select, attend = (dispatch.get(name).choose("native") for name in ("select_blocks", "attend"))
    cache, inputs, sparse = _cache(groups, dim, layers, context), _inputs(context), SparseConfig()
    rng, mass = np.random.default_rng(0), np.zeros((1, groups, context // BLOCK_SIZE), np.float32)
    stages: list[list[float]] = [[], [], []]
    for step in range(ROUNDS * layers):
        layer = step % layers
        q = rng.standard_normal((1, heads, dim), dtype=np.float32)
        inputs.block_mass = None
        start = time.perf_counter()
        blocks = select(q, inputs, cache, layer, scale=dim**-0.5, sparse=sparse)
        selected = time.perf_counter()
        attend(q, inputs, cache, layer, scale=dim**-0.5, blocks=blocks)
        attended = time.perf_counter()
        inputs.block_mass = mass
        attend(q, inputs, cache, (layer + layers // 2) % layers, scale=dim**-0.5, blocks=blocks)
        for stage, seconds in zip(
            stages, (selected - start, attended - selected, time.perf_counter() - attended), strict=True
        ):
            stage.append(seconds)
    one, two, with_mass = (median(stage) for stage in stages)
    rate = sparse.num_blocks * groups * dim * BLOCK_SIZE * 4 / two
    return {
        "stage_1_us": significant(one * 1e6),
        "stage_2_us": significant(two * 1e6),
        "stage_1_share": significant(one / (one + two)),
        "stage_2_share_of_read_limit": significant(rate / (read_bandwidth(MEMORY_BYTES) or float("nan"))),
        "stage_2_with_block_mass": significant(with_mass / two),
    }


def _cache(groups: int, dim: int, layers: int, context: int) -> Any:
    from whimbrel import _native

    rng = np.random.default_rng(1)
    pool = _native.KVPool(context // BLOCK_SIZE, layers, groups, dim, "bf16", True)
    values = rng.standard_normal(pool.block_bytes // 2, dtype=np.float32).view(np.uint32) >> 16
    content = values.astype(np.uint16).view(np.uint8)
    for block in range(pool.num_blocks):
        pool.block(block)[:] = np.roll(content, 128 * block)
    codes, scales = pool.kernels()
    codes[:] = rng.integers(1, 255, codes.size, dtype=np.uint8)
    scales.view(np.float32)[:] = 0.003
    return SimpleNamespace(pool=pool, num_key_value_heads=groups, head_dim=dim)


def _inputs(context: int) -> Any:
    return SimpleNamespace(
        positions=np.array([context - 1], np.int32),
        cu_seqlens=np.array([0, 1], np.int32),
        kv_lengths=np.array([context], np.int32),
        block_tables=np.arange(context // BLOCK_SIZE, dtype=np.int32)[None],
        tree_masks=None,
        block_mass=None,
    )


def main() -> None:
    """Measure every shape and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--context", type=int, default=131072)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    from whimbrel import _native

    _native.set_num_threads(options.threads)
    context = options.context // BLOCK_SIZE * BLOCK_SIZE
    rows = {name: measure(shape, context) for name, shape in SHAPES.items()}
    print(json.dumps({**provenance(), "context": context, "threads": options.threads, **rows}, indent=1))


if __name__ == "__main__":
    main()
