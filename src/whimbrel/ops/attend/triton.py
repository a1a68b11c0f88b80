"""attend in Triton: one kernel for dense and listed rows, decoding, prefill and tree masks; three for the gradients.

A tile is the query heads of some neighbouring tokens (``ops/triton.py``); it walks over blocks of 64 keys with an online
softmax in fp32. Which blocks:

    dense    all that the tile's last token sees
    listed   the union of its tokens' lists, each with a word that has a bit per token (``TileLists``): neighbours share
             most of their lists, and a block that several tokens chose is loaded once. With one token per tile this is
             the list itself.

A step of few rows is split over the blocks (2 of a list, 16 of all) and merged in order, so that a decoding token
occupies more than one multiprocessor. So a row's result does not depend on other rows, but decoding and prefill agree to
rounding only.

Backward: D = rowsum(dO * O); one kernel walks the tiles as the forward pass does and gives dQ, the other walks the
transposed lists, for every block the tiles that chose it, and gives dK and dV. Nothing is added atomically: the same
inputs give the same bits. The lists carry no gradient. Source: FlashAttention-2 (Dao, 2023); InfLLM-V2 (2025), section 3.3.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from whimbrel.ops.triton import (
    BLOCK_SIZE,
    needs_device,
    needs_tensors,
    precision,
    shape_of_tile,
    tokens_per_tile,
)

FEW_ROWS = 64
"""Steps of at most so many rows are split over the keys."""

SPLIT_LISTED, SPLIT_DENSE = 2, 16
"""Blocks that one program of a split step walks over: 48 programs a head for 96 blocks, 128 for 2,048."""

LOG2_E = 1.4426950408889634


def why_not(q: Any, cache: Any) -> str | None:
    """Needs tensors on CUDA or the interpreter, and a cache that reads keys as tensors."""
    return needs_device(q) or needs_tensors(cache)


def run(q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Any | None = None) -> Tensor:
    """[T, H, D] to [T, H * D], one sequence after the other."""
    outputs = []
    for sequence, (first, end) in enumerate(zip(inputs.cu_seqlens[:-1], inputs.cu_seqlens[1:], strict=True)):
        keys, values = (part.to(q) for part in cache.read(layer, sequence, inputs))
        lists = None if blocks is None else torch.as_tensor(blocks, device=q.device)[:, first:end]
        masks = None
        if inputs.tree_masks is not None:
            masks = torch.from_numpy(inputs.tree_masks[first:end].view("int64")).to(q.device)
        mass = None
        if inputs.block_mass is not None and end - first == 1:
            mass = inputs.block_mass[sequence]
        outputs.append(_attend(q[first:end], keys, values, lists, masks, scale, mass))
    return torch.cat(outputs).flatten(1)


def listed_attention(
    q: Tensor, k: Tensor, v: Tensor, lists: Tensor, *, scale: float, tokens: int | None = None
) -> Tensor:
    """Causal attention of ``[H, T, D]``, the last T of L, over listed blocks of ``[G, L, D]``; differentiable.

    ``lists`` int32 ``[G, T, K]``. ``tokens`` neighbours share a tile; None takes as many as fill 64 rows.
    """
    tokens = tokens_per_tile(q.shape[0] // k.shape[0]) if tokens is None else tokens
    rows, keys, values = (part.transpose(0, 1) for part in (q, k, v))
    result: Tensor = _Attend.apply(rows, keys, values, lists, None, scale, tokens)
    return result.transpose(0, 1)


def _attend(
    q: Tensor, keys: Tensor, values: Tensor, lists: Tensor | None, masks: Tensor | None, scale: float, mass: Any
) -> Tensor:
    """One sequence: q [n, H, D], keys and values [L, G, D], to [n, H, D]; adds to mass [G, max_blocks] if it is given."""
    tokens = tokens_per_tile(q.shape[1] // keys.shape[1])
    if lists is not None and lists.numel():
        have = -(-len(keys) // BLOCK_SIZE)
        largest, emptiest = torch.stack([lists.amax(), lists[..., 0].amin()]).tolist()
        if largest >= have:
            raise ValueError(f"a block list names block {largest}, the sequence has {have}")
        tokens = 1 if emptiest < 0 else tokens  # a tile is listed or dense, as a whole
    if len(q) <= FEW_ROWS and lists is not None:
        tokens = 1
    result: Tensor = _Attend.apply(q, keys, values, lists, masks, scale, tokens)
    if mass is not None:
        _add_mass(mass, q.detach(), keys.detach(), lists, scale)
    return result


@dataclass(frozen=True, slots=True)
class TileLists:
    """What tiles of several tokens walk over: their blocks, ascending, and who of them chose each.

    ``counts`` [G, tiles] entries are in use; 0 stands for a tile that attends to everything.
    """

    names: Tensor
    """int32 [G, tiles, U] block numbers"""
    members: Tensor
    """int32 [G, tiles, U] bit t: token t of the tile has this block in its list"""
    counts: Tensor
    """int32 [G, tiles]"""

    @staticmethod
    def of(lists: Tensor, tokens: int) -> "TileLists":
        """From lists [G, n, K], -1 behind the last; no list of a tile with several tokens is empty."""
        rows = lists.shape[1]
        if tokens == 1:
            counts = (lists >= 0).sum(-1, dtype=torch.int32)
            return TileLists(lists.contiguous(), torch.ones_like(lists), counts)
        padded = torch.nn.functional.pad(lists, (0, 0, 0, -rows % tokens), value=-1)
        token = torch.arange(tokens, device=lists.device)[:, None]
        far = torch.iinfo(torch.int32).max // tokens - 1
        keys = torch.where(padded < 0, far, padded).unflatten(1, (-1, tokens)).long() * tokens + token
        keys = keys.flatten(2).sort(-1).values
        names, tokens_of = keys // tokens, keys % tokens
        new = torch.ones_like(names, dtype=torch.bool)
        new[..., 1:] = names[..., 1:] != names[..., :-1]
        entry = new.cumsum(-1) - 1
        members = torch.zeros_like(names).scatter_add_(-1, entry, 1 << tokens_of)
        unique = torch.full_like(names, far).scatter_(-1, entry, names)
        counts = (unique < far).sum(-1, dtype=torch.int32)
        return TileLists(unique.int().contiguous(), members.int().contiguous(), counts)

    @staticmethod
    def dense(groups: int, tiles: int, tokens: int, first: int, rows: int, device: torch.device) -> "TileLists":
        """Everything that each tile of a causal step sees, written out; rows begin at key ``first``."""
        last = torch.arange(1, tiles + 1, device=device) * tokens
        visible = (first + last.clamp(max=rows) - 1) // BLOCK_SIZE + 1
        names = torch.arange(int(visible.max()), device=device, dtype=torch.int32).expand(groups, tiles, -1)
        counts = visible.int().expand(groups, -1)
        return TileLists(names.contiguous(), torch.full_like(names, (1 << tokens) - 1), counts.contiguous())

    def transposed(self, blocks: int) -> tuple[Tensor, Tensor, Tensor]:
        """(starts int64 [G * blocks + 1], tiles int32, members int32): for every block, the tiles that walk over it."""
        groups, _, width = self.names.shape
        used = torch.arange(width, device=self.names.device) < self.counts[..., None]
        head = torch.arange(groups, device=self.names.device)[:, None, None] * blocks
        keys = torch.where(used, self.names + head, groups * blocks).flatten()
        ordered, order = keys.sort(stable=True)
        bounds = torch.arange(groups * blocks + 1, device=keys.device, dtype=keys.dtype)
        starts = torch.searchsorted(ordered, bounds)
        tiles = order // width % self.names.shape[1]
        return starts, tiles.int(), self.members.flatten()[order]


class _Attend(torch.autograd.Function):
    """q [n, H, D], keys and values [L, G, D], lists [G, n, K] or None, to [n, H, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        lists: Tensor | None,
        masks: Tensor | None,
        scale: float,
        tokens: int,
    ) -> Tensor:
        q, keys, values = (_last_axis_dense(part) for part in (q, keys, values))
        tiles = None if lists is None else TileLists.of(lists, tokens)
        split = 0
        if len(q) <= FEW_ROWS:
            split = SPLIT_DENSE if lists is None else SPLIT_LISTED
        out, lse = _run_forward(q, keys, values, tiles, masks, scale, tokens, split)
        lists_of_tiles = () if tiles is None else (tiles.names, tiles.members, tiles.counts)
        ctx.save_for_backward(q, keys, values, out, lse, *lists_of_tiles)
        ctx.scale, ctx.tokens, ctx.trees = scale, tokens, masks is not None
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.trees:
            raise NotImplementedError("attend: the verification of draft trees has no gradient")
        q, keys, values, out, lse, *stored = ctx.saved_tensors
        tiles = TileLists(*stored) if stored else None
        if tiles is None or bool((tiles.counts == 0).any()):
            count, first = triton.cdiv(len(q), ctx.tokens), len(keys) - len(q)
            everything = TileLists.dense(keys.shape[1], count, ctx.tokens, first, len(q), q.device)
            tiles = everything if tiles is None else _written_out(tiles, everything)
        d_out = _last_axis_dense(gradients[0])
        delta = (d_out.float() * out.float()).sum(-1)
        both = (q, keys, values, d_out, lse, delta, tiles, ctx.scale, ctx.tokens)
        dq = _run_backward_queries(*both)
        dk, dv = _run_backward_keys(*both)
        return dq, dk, dv, None, None, None, None


def _written_out(tiles: TileLists, everything: TileLists) -> TileLists:
    """``tiles`` with those that attend to everything as lists of their own."""
    empty = tiles.counts == 0
    width = max(tiles.names.shape[2], everything.names.shape[2])

    def merged(some: Tensor, rest: Tensor) -> Tensor:
        some, rest = (torch.nn.functional.pad(part, (0, width - part.shape[2])) for part in (some, rest))
        return torch.where(empty[..., None], rest, some).contiguous()

    return TileLists(
        merged(tiles.names, everything.names),
        merged(tiles.members, everything.members),
        torch.where(empty, everything.counts, tiles.counts),
    )


def _last_axis_dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    """Strides of the first two axes of each: kernels take any, the last axis is dense."""
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]


def _warps(heads: int, tokens: int, dim: int) -> int:
    """Compiled for sm_90, 64 rows of 128 columns need 182 registers of 4 warps; 128 rows spill there and not with 8."""
    return 8 if shape_of_tile(heads, tokens, dim)["M"] > 64 and dim > 64 else 4


def _run_forward(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tiles: TileLists | None,
    masks: Tensor | None,
    scale: float,
    tokens: int,
    split: int,
) -> tuple[Tensor, Tensor]:
    """Output [n, H, D] in the dtype of q, and log2 of the sums of powers of two, fp32 [n, H]."""
    rows, heads, dim = q.shape
    groups = keys.shape[1]
    blocks = triton.cdiv(len(keys), BLOCK_SIZE)
    # a list of a tile that attends to everything has no entry, so a split step is cut for all blocks
    splits = triton.cdiv(blocks, split) if split else 1
    out = torch.empty((splits, rows, heads, dim), dtype=torch.float32 if split else q.dtype, device=q.device)
    lse = torch.empty((splits, rows, heads), dtype=torch.float32, device=q.device)
    none = lse  # pointers that a variant of the kernel doesn't follow
    _forward[(triton.cdiv(rows, tokens), groups, splits)](
        q,
        keys,
        values,
        none if tiles is None else tiles.names,
        none if tiles is None else tiles.members,
        none if tiles is None else tiles.counts,
        none if masks is None else masks,
        out,
        lse,
        scale * LOG2_E,
        rows,
        len(keys),
        0 if tiles is None else tiles.names.shape[2],
        *_strides(q, keys, values),
        **shape_of_tile(heads // groups, tokens, dim),
        LISTED=tiles is not None,
        TREE=masks is not None,
        SPLIT=split,
        BLOCK=BLOCK_SIZE,
        PRECISION=precision(q.dtype),
        num_warps=_warps(heads // groups, tokens, dim),
        num_stages=3 if dim <= 64 else 2,
    )
    if not split:
        return out[0], lse[0]
    merged, merged_lse = torch.empty_like(q, memory_format=torch.contiguous_format), torch.empty_like(lse[0])
    D_PAD = shape_of_tile(1, 1, dim)["D_PAD"]
    _merge[(rows * heads,)](out, lse, merged, merged_lse, splits, rows * heads, D=dim, D_PAD=D_PAD, num_warps=1)
    return merged, merged_lse


def _run_backward_queries(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    d_out: Tensor,
    lse: Tensor,
    delta: Tensor,
    tiles: TileLists,
    scale: float,
    tokens: int,
) -> Tensor:
    rows, heads, dim = q.shape
    groups = keys.shape[1]
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _backward_queries[(triton.cdiv(rows, tokens), groups)](
        q,
        keys,
        values,
        d_out,
        lse,
        delta,
        tiles.names,
        tiles.members,
        tiles.counts,
        dq,
        scale,
        rows,
        len(keys),
        tiles.names.shape[2],
        *_strides(q, keys, values, d_out),
        **shape_of_tile(heads // groups, tokens, dim),
        BLOCK=BLOCK_SIZE,
        PRECISION=precision(q.dtype),
        num_warps=_warps(heads // groups, tokens, dim),
        num_stages=2,
    )
    return dq


def _run_backward_keys(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    d_out: Tensor,
    lse: Tensor,
    delta: Tensor,
    tiles: TileLists,
    scale: float,
    tokens: int,
) -> tuple[Tensor, Tensor]:
    rows, heads, dim = q.shape
    groups = keys.shape[1]
    blocks = triton.cdiv(len(keys), BLOCK_SIZE)
    starts, choosers, members = tiles.transposed(blocks)
    dk, dv = (torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (keys, values))
    _backward_keys[(blocks, groups)](
        q,
        keys,
        values,
        d_out,
        lse,
        delta,
        starts,
        choosers,
        members,
        dk,
        dv,
        scale,
        rows,
        len(keys),
        *_strides(q, keys, values, d_out),
        **shape_of_tile(heads // groups, tokens, dim),
        BLOCK=BLOCK_SIZE,
        PRECISION=precision(q.dtype),
        num_warps=8 if dim > 64 else 4,
        num_stages=2,
    )
    return dk, dv


def _add_mass(mass: Any, q: Tensor, keys: Tensor, lists: Tensor | None, scale: float) -> None:
    """Add the probability that one row q [1, H, D] gives to each block: numpy [G, max_blocks].

    In torch, because it reads the listed keys only and is asked for rarely.
    """
    groups, blocks = keys.shape[1], -(-len(keys) // BLOCK_SIZE)
    for group, heads in enumerate(q[0].float().unflatten(0, (groups, -1))):
        chosen = torch.arange(blocks, device=q.device)
        if lists is not None and bool((lists[group, 0] >= 0).any()):
            chosen = lists[group, 0][lists[group, 0] >= 0].long()
        tokens = (chosen[:, None] * BLOCK_SIZE + torch.arange(BLOCK_SIZE, device=q.device)).flatten()
        seen = tokens < len(keys)
        scores = scale * heads @ keys[tokens.clamp(max=len(keys) - 1), group].float().T
        shares = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1).sum(0).unflatten(0, (-1, BLOCK_SIZE)).sum(-1)
        mass[group, chosen.cpu().numpy()] += shares.cpu().numpy()


# Kernels. Names: m rows of a tile, n keys of a block, d columns of a head.


@triton.jit
def _rows_of_tile(
    tile, group, rows, HEADS: tl.constexpr, HEADS_PAD: tl.constexpr, TOKENS: tl.constexpr, M: tl.constexpr
):
    """(token, head, place in the tile, whether there is such a row), each [M]."""
    m = tl.arange(0, M)
    place = m // HEADS_PAD
    token = tile.to(tl.int64) * TOKENS + place
    alive = (m % HEADS_PAD < HEADS) & (place < TOKENS) & (token < rows)
    return token, group * HEADS + m % HEADS_PAD, place, alive


@triton.jit
def _load_block(
    x, block, group, length, stride, head_stride, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK: tl.constexpr
):
    """Keys or values of one block, [BLOCK, D_PAD]; zeros beyond the sequence."""
    n = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D_PAD)
    inside = (n < length)[:, None] & (d < D)[None, :]
    return tl.load(x + n[:, None] * stride + group * head_stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def _load_rows(x, token, head, alive, stride, head_stride, D: tl.constexpr, D_PAD: tl.constexpr):
    """[M, D_PAD]; zeros where there is no such row."""
    d = tl.arange(0, D_PAD)
    inside = alive[:, None] & (d < D)[None, :]
    return tl.load(x + token[:, None] * stride + head[:, None] * head_stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def _log2_of_sum(largest, total):
    """-inf of a row that saw nothing."""
    return tl.where(total > 0.0, largest + tl.log2(tl.where(total > 0.0, total, 1.0)), float("-inf"))


@triton.jit
def _forward(
    q_ptr,
    k_ptr,
    v_ptr,
    names_ptr,
    members_ptr,
    counts_ptr,
    masks_ptr,
    out_ptr,
    lse_ptr,
    scale_log2,
    rows,
    length,
    width,
    q_stride,
    q_head,
    k_stride,
    k_head,
    v_stride,
    v_head,
    HEADS: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    TOKENS: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    LISTED: tl.constexpr,
    TREE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile, group, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    token, head, place, alive = _rows_of_tile(tile, group, rows, HEADS, HEADS_PAD, TOKENS, M)
    q = _load_rows(q_ptr, token, head, alive, q_stride, q_head, D, D_PAD)
    first = length - rows
    position = first + token
    visible = (first + tl.minimum((tile + 1) * TOKENS, rows) - 1) // BLOCK + 1
    if TREE:
        visible = (length + BLOCK - 1) // BLOCK
        words = tl.load(masks_ptr + token, mask=alive, other=0)
    steps = visible
    stored = 0
    entries = names_ptr
    entry_members = members_ptr
    if LISTED:
        index = group * tl.num_programs(0) + tile
        stored = tl.load(counts_ptr + index)
        steps = tl.where(stored == 0, visible, stored)
        entries = names_ptr + index * width
        entry_members = members_ptr + index * width
    begin = 0
    if SPLIT > 0:
        begin = split * SPLIT
        steps = tl.minimum(steps, begin + SPLIT)

    largest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    out = tl.zeros([M, D_PAD], tl.float32)
    for i in range(begin, steps):
        block = i
        if LISTED:
            block = tl.where(stored == 0, i, tl.load(entries + i, mask=i < stored, other=0))
        keys = _load_block(k_ptr, block, group, length, k_stride, k_head, D, D_PAD, BLOCK)
        scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale_log2
        n = block * BLOCK + tl.arange(0, BLOCK)
        if TREE:
            ahead = n - first
            bit = (words[:, None] >> tl.maximum(ahead, 0)[None, :].to(tl.int64)) & 1
            seen = ((ahead < 0)[None, :] | (bit == 1)) & (n < length)[None, :]
        else:
            seen = n[None, :] <= position[:, None]
        if LISTED and TOKENS > 1:
            word = tl.load(entry_members + i, mask=i < stored, other=-1)
            seen = seen & (((word >> place) & 1) == 1)[:, None]
        scores = tl.where(seen, scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, 1))
        reference = tl.where(new == float("-inf"), 0.0, new)  # of a row that has seen nothing yet
        powers = tl.exp2(scores - reference[:, None])
        shrink = tl.exp2(largest - reference)
        values = _load_block(v_ptr, block, group, length, v_stride, v_head, D, D_PAD, BLOCK)
        out = out * shrink[:, None] + tl.dot(powers.to(values.dtype), values, input_precision=PRECISION)
        total = total * shrink + tl.sum(powers, 1)
        largest = new

    out = out / tl.where(total == 0.0, 1.0, total)[:, None]
    heads = tl.num_programs(1) * HEADS
    place_out = (split.to(tl.int64) * rows + token) * heads + head
    d = tl.arange(0, D_PAD)
    inside = alive[:, None] & (d < D)[None, :]
    tl.store(out_ptr + place_out[:, None] * D + d[None, :], out.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(lse_ptr + place_out, _log2_of_sum(largest, total), mask=alive)


@triton.jit
def _merge(parts_ptr, part_lse_ptr, out_ptr, lse_ptr, splits, count, D: tl.constexpr, D_PAD: tl.constexpr):
    """Splits of one row and head: weights 2 ** lse, in order."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, D_PAD)
    largest = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    out = tl.zeros([D_PAD], tl.float32)
    for split in range(splits):
        at = row + split * count
        lse = tl.load(part_lse_ptr + at)
        new = tl.maximum(largest, lse)
        reference = tl.where(new == float("-inf"), 0.0, new)
        shrink, weight = tl.exp2(largest - reference), tl.exp2(lse - reference)
        part = tl.load(parts_ptr + at * D + d, mask=d < D, other=0.0)
        out = out * shrink + part * weight
        total = total * shrink + weight
        largest = new
    safe = tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + row * D + d, (out / safe).to(out_ptr.dtype.element_ty), mask=d < D)
    tl.store(lse_ptr + row, _log2_of_sum(largest, total))


@triton.jit
def _weights(q, keys, lse, seen, scale_log2, PRECISION: tl.constexpr):
    """Probabilities [M, BLOCK] again, from the sums that the forward pass kept."""
    scores = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale_log2
    return tl.exp2(tl.where(seen, scores - lse[:, None], float("-inf")))


@triton.jit
def _backward_queries(
    q_ptr,
    k_ptr,
    v_ptr,
    d_out_ptr,
    lse_ptr,
    delta_ptr,
    names_ptr,
    members_ptr,
    counts_ptr,
    dq_ptr,
    scale,
    rows,
    length,
    width,
    q_stride,
    q_head,
    k_stride,
    k_head,
    v_stride,
    v_head,
    o_stride,
    o_head,
    HEADS: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    TOKENS: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token, head, place, alive = _rows_of_tile(tile, group, rows, HEADS, HEADS_PAD, TOKENS, M)
    q = _load_rows(q_ptr, token, head, alive, q_stride, q_head, D, D_PAD)
    d_out = _load_rows(d_out_ptr, token, head, alive, o_stride, o_head, D, D_PAD)
    at = token * (tl.num_programs(1) * HEADS) + head
    lse = tl.load(lse_ptr + at, mask=alive, other=0.0)
    delta = tl.load(delta_ptr + at, mask=alive, other=0.0)
    position = length - rows + token
    index = group * tl.num_programs(0) + tile
    steps = tl.load(counts_ptr + index)
    dq = tl.zeros([M, D_PAD], tl.float32)
    for i in range(steps):
        block = tl.load(names_ptr + index * width + i)
        keys = _load_block(k_ptr, block, group, length, k_stride, k_head, D, D_PAD, BLOCK)
        values = _load_block(v_ptr, block, group, length, v_stride, v_head, D, D_PAD, BLOCK)
        seen = (block * BLOCK + tl.arange(0, BLOCK))[None, :] <= position[:, None]
        if TOKENS > 1:
            word = tl.load(members_ptr + index * width + i)
            seen = seen & (((word >> place) & 1) == 1)[:, None]
        weights = _weights(q, keys, lse, seen & alive[:, None], scale * 1.4426950408889634, PRECISION)
        d_weights = tl.dot(d_out, tl.trans(values), input_precision=PRECISION)
        d_scores = weights * (d_weights - delta[:, None])
        dq += tl.dot(d_scores.to(keys.dtype), keys, input_precision=PRECISION)
    d = tl.arange(0, D_PAD)
    inside = alive[:, None] & (d < D)[None, :]
    tl.store(dq_ptr + at[:, None] * D + d[None, :], (dq * scale).to(dq_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_keys(
    q_ptr,
    k_ptr,
    v_ptr,
    d_out_ptr,
    lse_ptr,
    delta_ptr,
    starts_ptr,
    tiles_ptr,
    members_ptr,
    dk_ptr,
    dv_ptr,
    scale,
    rows,
    length,
    q_stride,
    q_head,
    k_stride,
    k_head,
    v_stride,
    v_head,
    o_stride,
    o_head,
    HEADS: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    TOKENS: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    block, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    keys = _load_block(k_ptr, block, group, length, k_stride, k_head, D, D_PAD, BLOCK)
    values = _load_block(v_ptr, block, group, length, v_stride, v_head, D, D_PAD, BLOCK)
    n = block * BLOCK + tl.arange(0, BLOCK)
    heads = tl.num_programs(1) * HEADS
    index = group * tl.num_programs(0) + block
    begin, end = tl.load(starts_ptr + index), tl.load(starts_ptr + index + 1)
    dk = tl.zeros([BLOCK, D_PAD], tl.float32)
    dv = tl.zeros([BLOCK, D_PAD], tl.float32)
    for i in range(begin, end):
        tile = tl.load(tiles_ptr + i)
        token, head, place, alive = _rows_of_tile(tile, group, rows, HEADS, HEADS_PAD, TOKENS, M)
        at = token * heads + head
        q = _load_rows(q_ptr, token, head, alive, q_stride, q_head, D, D_PAD)
        d_out = _load_rows(d_out_ptr, token, head, alive, o_stride, o_head, D, D_PAD)
        lse = tl.load(lse_ptr + at, mask=alive, other=0.0)
        delta = tl.load(delta_ptr + at, mask=alive, other=0.0)
        seen = n[None, :] <= (length - rows + token)[:, None]
        if TOKENS > 1:
            word = tl.load(members_ptr + i)
            seen = seen & (((word >> place) & 1) == 1)[:, None]
        weights = _weights(q, keys, lse, seen & alive[:, None], scale * 1.4426950408889634, PRECISION)
        dv += tl.dot(tl.trans(weights.to(d_out.dtype)), d_out, input_precision=PRECISION)
        d_weights = tl.dot(d_out, tl.trans(values), input_precision=PRECISION)
        d_scores = (weights * (d_weights - delta[:, None])).to(q.dtype)
        dk += tl.dot(tl.trans(d_scores), q, input_precision=PRECISION)
    d = tl.arange(0, D_PAD)
    inside = (n < length)[:, None] & (d < D)[None, :]
    to = (n.to(tl.int64)[:, None] * tl.num_programs(1) + group) * D + d[None, :]
    tl.store(dk_ptr + to, (dk * scale).to(dk_ptr.dtype.element_ty), mask=inside)
    tl.store(dv_ptr + to, dv.to(dv_ptr.dtype.element_ty), mask=inside)
