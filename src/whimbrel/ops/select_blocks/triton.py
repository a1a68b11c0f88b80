"""select_blocks in Triton: scores by ``block_scores``, then the best of each row without sorting.

Scores are sums of exponentials or infinite, so their bits order as integers do. The lowest score that is still chosen
is found bit by bit (31 counts over the row), ties go to the lower block by a running count, and the chosen are written
out in the order in which they stand: ascending.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from whimbrel.ops.block_scores import triton as block_scores
from whimbrel.ops.select_blocks.reference import first_sparse
from whimbrel.ops.semantic_kernels.reference import upright
from whimbrel.ops.semantic_kernels.triton import means
from whimbrel.ops.triton import needs_device, needs_kernels, needs_tensors

ROWS = 4096
"""Rows whose scores are held at a time: of 2,048 blocks and two heads 64 MiB."""


def why_not(q: Any, cache: Any, sparse: Any) -> str | None:
    """Needs tensors on CUDA or the interpreter, a cache that reads kernels as tensors, and no other estimator."""
    return needs_device(q) or needs_tensors(cache) or needs_kernels(sparse)


@torch.no_grad()
def run(
    q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, sparse: Any, rope: Any | None = None
) -> Tensor | None:
    """[T, H, D] to int32 [G, T, K], or None."""
    # the last token of the longest sequence is the first to turn sparse
    if int(inputs.kv_lengths.max()) < max(sparse.dense_len, sparse.num_blocks * sparse.block_size + 1):
        return None
    q = upright(q, rope, inputs.positions) if sparse.use_nope else q
    shape = (cache.num_key_value_heads, len(q), sparse.num_blocks)
    lists = torch.full(shape, -1, dtype=torch.int32, device=q.device)
    for sequence, length in enumerate(inputs.kv_lengths.tolist()):
        first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
        kernels, positions = block_scores.stored(q, inputs, cache, layer, sequence, sparse)
        blocks = -(-length // sparse.block_size)
        of_rows(q[first:end], kernels, positions, blocks, scale, sparse, lists[:, first:end], first_sparse(sparse))
    return lists if bool((lists[..., 0] >= 0).any()) else None


def of_keys(q: Tensor, keys: Tensor, *, scale: float, sparse: Any) -> Tensor:
    """Lists int32 [G, n, K] of the last queries [n, H, D] of keys [L, G, D], whatever ``dense_len`` says."""
    first, (length, groups, _) = len(keys) - len(q), keys.shape
    positions = torch.arange(first, length, dtype=torch.int32, device=q.device)
    lists = torch.full((groups, len(q), sparse.num_blocks), -1, dtype=torch.int32, device=q.device)
    blocks = triton.cdiv(length, sparse.block_size)
    of_rows(q, means(keys, sparse), positions, blocks, scale, sparse, lists, 0)
    return lists


def of_rows(
    q: Tensor, kernels: Tensor, positions: Tensor, blocks: int, scale: float, sparse: Any, lists: Tensor, first: int
) -> None:
    """Write the lists [G, n, K] of one sequence's rows [n, H, D]; those before position ``first`` stay as they are."""
    for row in range(0, len(q), ROWS):
        part, places = q[row : row + ROWS], positions[row : row + ROWS]
        scores = block_scores.of_rows(part, kernels, places, blocks, scale, sparse)
        top_blocks(scores, places, lists[:, row : row + ROWS], first)


def top_blocks(scores: Tensor, positions: Tensor, lists: Tensor, first: int) -> None:
    """Write the ascending numbers of the best blocks: scores fp32 [G, n, b] to lists int32 [G, n, K], full of -1."""
    groups, rows, blocks = scores.shape
    if not rows:
        return
    _choose[(rows, groups)](
        scores,
        positions,
        lists,
        blocks,
        first,
        lists.stride(0),
        lists.stride(1),
        K=lists.shape[2],
        WIDTH=triton.next_power_of_2(blocks),
        num_warps=4,
    )


@triton.jit
def _choose(
    scores_ptr,
    positions_ptr,
    lists_ptr,
    blocks,
    first,
    head_stride,
    stride,
    K: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    position = tl.load(positions_ptr + row)
    if position >= first:
        block = tl.arange(0, WIDTH)
        scores = tl.load(
            scores_ptr + (group * tl.num_programs(0) + row) * blocks + block, mask=block < blocks, other=float("-inf")
        )
        bits = scores.to(tl.int32, bitcast=True)
        lowest = tl.full([], 0, tl.int32)
        for step in range(31):
            candidate = lowest | (1 << (30 - step))
            lowest = tl.where(tl.sum((bits >= candidate).to(tl.int32), 0) >= K, candidate, lowest)
        above, equal = bits > lowest, bits == lowest
        room = K - tl.sum(above.to(tl.int32), 0)
        chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))
        place = tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(lists_ptr + group * head_stride + row * stride + place, block, mask=chosen)
