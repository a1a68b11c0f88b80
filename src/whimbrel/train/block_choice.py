"""``ops/semantic_kernels`` and ``ops/select_blocks`` of training: whole pieces, most of them too short to choose.

On CUDA (and under Triton's interpreter) a long piece's late queries choose by Triton's kernels, which average the keys as they
need them, and short pieces launch nothing. Everywhere else, and for options that those have not, the reference does both.
"""

from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.select_blocks import reference as select_reference
from whimbrel.ops.semantic_kernels import reference as kernels_reference
from whimbrel.train.device import has_kernels
from whimbrel.train.sparse_attention import select


def semantic_kernels(inputs: Any, cache: Any, layer: int, *, sparse: Any, rope: Any | None = None) -> None:
    """Nothing where Triton chooses."""
    keys = cache.read(layer, 0, inputs)[0]
    if not _by_triton(keys, sparse):
        kernels_reference.run(inputs, cache, layer, sparse=sparse, rope=rope)


def select_blocks(
    q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, sparse: Any, rope: Any | None = None
) -> Tensor | None:
    """[T, H, D] to int32 [G, T, K], -1 where a token attends to everything, or None if all do."""
    if not _by_triton(q, sparse):
        return select_reference.run(q, inputs, cache, layer, scale=scale, sparse=sparse, rope=rope)
    late = select_reference.first_sparse(sparse)
    if int(inputs.kv_lengths.max()) <= late:
        return None
    shape = (cache.num_key_value_heads, len(q), sparse.num_blocks)
    lists = torch.full(shape, -1, dtype=torch.int32, device=q.device)
    for sequence, length in enumerate(inputs.kv_lengths.tolist()):
        first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
        rows = min(end - first, length - late)
        if rows > 0:
            keys = cache.read(layer, sequence, inputs)[0].transpose(0, 1)
            lists[:, end - rows : end] = select(q[end - rows : end].transpose(0, 1), keys, sparse=sparse, scale=scale)
    return lists


def _by_triton(x: Tensor, sparse: Any) -> bool:
    return has_kernels(x) and not sparse.use_nope and sparse.estimator == "kernels"
