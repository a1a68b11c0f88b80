"""block_scores in Triton: the sums over kernels first, then the blocks' scores, without writing the kernels' out.

A tile is the query heads of a few neighbouring tokens (``ops/triton.py``). The second kernel takes, for a tile of blocks,
the first kernel that overlaps each of them, then the second and so on: the largest of five products, no exchange between
columns. The kernel that two blocks share is multiplied twice.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from whimbrel.ops.block_scores.reference import COARSE, slots
from whimbrel.ops.semantic_kernels.reference import count, upright
from whimbrel.ops.triton import needs_device, needs_kernels, needs_tensors, precision, shape_of_tile, tokens_per_tile

LOG2_E = 1.4426950408889634
COLUMNS = 64
"""Kernels of a tile of the sums."""

BLOCKS = 32
"""Blocks of a tile of the scores."""


def why_not(q: Any, cache: Any, sparse: Any) -> str | None:
    """Needs tensors on CUDA or the interpreter, a cache that reads kernels as tensors, and no other estimator."""
    return needs_device(q) or needs_tensors(cache) or needs_kernels(sparse)


@torch.no_grad()
def run(
    q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, sparse: Any, rope: Any | None = None
) -> Tensor:
    """[T, H, D] to [G, T, b] fp32, one sequence after the other."""
    q = upright(q, rope, inputs.positions) if sparse.use_nope else q
    longest = -(-int(inputs.kv_lengths.max()) // sparse.block_size)
    shape = (cache.num_key_value_heads, len(q), longest)
    scores = torch.full(shape, -torch.inf, dtype=torch.float32, device=q.device)
    for sequence, length in enumerate(inputs.kv_lengths.tolist()):
        first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
        kernels, positions = stored(q, inputs, cache, layer, sequence, sparse)
        blocks = -(-length // sparse.block_size)
        scores[:, first:end, :blocks] = of_rows(q[first:end], kernels, positions, blocks, scale, sparse)
    return scores


def stored(q: Tensor, inputs: Any, cache: Any, layer: int, sequence: int, sparse: Any) -> tuple[Tensor, Tensor]:
    """One sequence's kernels [v, G, D], and the place of each of its rows among its keys, int32 [n]."""
    first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
    length = int(inputs.kv_lengths[sequence])
    kept = length if inputs.tree_masks is None else length - (end - first)
    kernels = cache.read_kernels(layer, sequence, count(kept, sparse), inputs).to(q)
    return kernels, slots(inputs, sequence).to(device=q.device, dtype=torch.int32)


def of_rows(q: Tensor, kernels: Tensor, positions: Tensor, blocks: int, scale: float, sparse: Any) -> Tensor:
    """Scores [G, n, blocks] of one sequence's rows [n, H, D]; kernels [v, G, D], positions int32 [n]."""
    q, kernels = (part if part.stride(-1) == 1 else part.contiguous() for part in (q, kernels))
    (rows, heads, dim), groups = q.shape, kernels.shape[1]
    tokens = tokens_per_tile(heads // groups)
    shape: dict[str, Any] = shape_of_tile(heads // groups, tokens, dim) | {"PRECISION": precision(q.dtype)}
    grid = (triton.cdiv(rows, tokens), groups)
    coarse, step = kernels, sparse.kernel_stride
    if sparse.lse == "coarse":
        coarse, step = _coarse(kernels), COARSE * sparse.kernel_stride
    sums = torch.empty((rows, heads), dtype=torch.float32, device=q.device)
    _sums[grid](
        q,
        coarse,
        positions,
        sums,
        scale * LOG2_E,
        rows,
        len(coarse),
        *q.stride()[:2],
        *coarse.stride()[:2],
        **shape,
        SIZE=sparse.kernel_size * (step // sparse.kernel_stride),
        STEP=step,
        COLUMNS=COLUMNS,
        num_warps=4,
    )
    scores = torch.empty((groups, rows, blocks), dtype=torch.float32, device=q.device)
    _scores[(*grid, triton.cdiv(blocks, BLOCKS))](
        q,
        kernels,
        positions,
        sums,
        scores,
        scale * LOG2_E,
        rows,
        len(kernels),
        blocks,
        *q.stride()[:2],
        *kernels.stride()[:2],
        **shape,
        SIZE=sparse.kernel_size,
        STEP=sparse.kernel_stride,
        BLOCK=sparse.block_size,
        INIT=sparse.init_blocks,
        LOCAL=sparse.local_blocks,
        BLOCKS=BLOCKS,
        num_warps=4,
    )
    return scores


def _coarse(kernels: Tensor) -> Tensor:
    """Kernels four times as long and as far apart: [v, G, D] to [v4, G, D]."""
    if len(kernels) < 2 * COARSE - 1:
        return kernels[:0]
    return kernels.unfold(0, 2 * COARSE - 1, COARSE)[..., ::2].mean(-1)


@triton.jit
def _load_tile(
    q_ptr,
    positions_ptr,
    rows,
    stride,
    head_stride,
    HEADS: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    TOKENS: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
):
    """(q [M, D_PAD], position, place in q of row and head, whether there is such a row)."""
    m, d = tl.arange(0, M), tl.arange(0, D_PAD)
    token = tl.program_id(0).to(tl.int64) * TOKENS + m // HEADS_PAD
    head = tl.program_id(1).to(tl.int64) * HEADS + m % HEADS_PAD
    alive = (m % HEADS_PAD < HEADS) & (m // HEADS_PAD < TOKENS) & (token < rows)
    at = token[:, None] * stride + head[:, None] * head_stride + d[None, :]
    q = tl.load(q_ptr + at, mask=alive[:, None] & (d < D)[None, :], other=0.0)
    position = tl.load(positions_ptr + token, mask=alive, other=-1)
    return q, position, token * (tl.num_programs(1) * HEADS) + head, alive


@triton.jit
def _load_kernels(kernels_ptr, index, count, stride, head_stride, D: tl.constexpr, D_PAD: tl.constexpr):
    """[columns, D_PAD]; zeros for those that don't exist."""
    d = tl.arange(0, D_PAD)
    at = index.to(tl.int64)[:, None] * stride + tl.program_id(1).to(tl.int64) * head_stride + d[None, :]
    return tl.load(kernels_ptr + at, mask=((index >= 0) & (index < count))[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _sums(
    q_ptr,
    kernels_ptr,
    positions_ptr,
    sums_ptr,
    scale_log2,
    rows,
    count,
    q_stride,
    q_head,
    k_stride,
    k_head,
    HEADS: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    TOKENS: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    PRECISION: tl.constexpr,
    SIZE: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """log2 of the sum of powers of two of the visible kernels' scores, [n, H]; -inf where there are none."""
    q, position, at, alive = _load_tile(
        q_ptr, positions_ptr, rows, q_stride, q_head, HEADS, HEADS_PAD, TOKENS, M, D, D_PAD
    )
    # those that end at or before the last position; without one the numerator is at most 0
    visible = tl.minimum(count, tl.maximum(tl.max(position, 0) + 1 - SIZE + STEP, 0) // STEP)
    largest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    for start in range(0, visible, COLUMNS):
        index = start + tl.arange(0, COLUMNS)
        kernels = _load_kernels(kernels_ptr, index, count, k_stride, k_head, D, D_PAD)
        scores = tl.dot(q, tl.trans(kernels), input_precision=PRECISION) * scale_log2
        seen = (index * STEP + SIZE - 1)[None, :] <= position[:, None]
        scores = tl.where(seen & (index < count)[None, :], scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        reference = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(largest - reference) + tl.sum(tl.exp2(scores - reference[:, None]), 1)
        largest = new
    sums = tl.where(total > 0.0, largest + tl.log2(tl.where(total > 0.0, total, 1.0)), float("-inf"))
    tl.store(sums_ptr + at, sums, mask=alive)


@triton.jit
def _scores(
    q_ptr,
    kernels_ptr,
    positions_ptr,
    sums_ptr,
    scores_ptr,
    scale_log2,
    rows,
    count,
    blocks,
    q_stride,
    q_head,
    k_stride,
    k_head,
    HEADS: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    TOKENS: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    PRECISION: tl.constexpr,
    SIZE: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    INIT: tl.constexpr,
    LOCAL: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The largest P of the kernels that overlap each block, [G, n, blocks]; forced and later blocks as specified."""
    q, position, at, alive = _load_tile(
        q_ptr, positions_ptr, rows, q_stride, q_head, HEADS, HEADS_PAD, TOKENS, M, D, D_PAD
    )
    sums = tl.load(sums_ptr + at, mask=alive, other=float("-inf"))
    block = tl.program_id(2) * BLOCKS + tl.arange(0, BLOCKS)
    RATIO: tl.constexpr = BLOCK // STEP
    SLOTS: tl.constexpr = M // HEADS_PAD
    best = tl.full([SLOTS, BLOCKS], float("-inf"), tl.float32)
    if tl.program_id(2) * BLOCKS * BLOCK <= tl.max(position, 0):
        for offset in range(RATIO + 1):
            index = block * RATIO + (offset - 1)
            kernels = _load_kernels(kernels_ptr, index, count, k_stride, k_head, D, D_PAD)
            scores = tl.dot(q, tl.trans(kernels), input_precision=PRECISION) * scale_log2
            seen = (index * STEP + SIZE - 1)[None, :] <= position[:, None]
            seen = seen & (sums > float("-inf"))[:, None] & alive[:, None]
            # where() on the exponent: a sum of -inf must not meet a score
            exponent = tl.where(seen, scores - tl.where(sums > float("-inf"), sums, 0.0)[:, None], float("-inf"))
            mass = tl.sum(tl.reshape(tl.exp2(exponent), (SLOTS, HEADS_PAD, BLOCKS)), 1)
            mass = tl.where(mass < float("inf"), mass, 0.0)
            exists = (index >= 0) & (index < count)
            best = tl.maximum(best, tl.where(exists[None, :], mass, float("-inf")))
    slot = tl.arange(0, SLOTS)
    token = tl.program_id(0).to(tl.int64) * TOKENS + slot
    there = (slot < TOKENS) & (token < rows)
    own = tl.load(positions_ptr + token, mask=there, other=-1) // BLOCK
    forced = (block < INIT)[None, :] | (block[None, :] >= own[:, None] - LOCAL)
    best = tl.where(forced, float("inf"), best)
    best = tl.where(block[None, :] > own[:, None], float("-inf"), best)
    to = (tl.program_id(1).to(tl.int64) * rows + token)[:, None] * blocks + block[None, :]
    tl.store(scores_ptr + to, best, mask=there[:, None] & (block < blocks)[None, :])
