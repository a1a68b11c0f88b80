"""block_scores in torch. Shapes: n query rows, H query heads, G key/value heads, v kernels, b blocks."""

import math
from functools import cache as remembered
from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.reference import needs_tensor
from whimbrel.ops.semantic_kernels.reference import count, upright

COARSE = 4
"""Strides from one coarse kernel to the next; it spans twice that: 128 tokens, 64 apart."""


def why_not(q: Any, cache: Any, sparse: Any) -> str | None:
    """Needs a torch input."""
    return needs_tensor(q)


@torch.no_grad()
def run(
    q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, sparse: Any, rope: Any | None = None
) -> Tensor:
    """[T, H, D] to [G, T, b], one sequence after the other."""
    q = upright(q, rope, inputs.positions) if sparse.use_nope else q
    longest = -(-int(inputs.kv_lengths.max()) // sparse.block_size)
    scores = q.new_full((cache.num_key_value_heads, len(q), longest), -torch.inf)
    for sequence, length in enumerate(inputs.kv_lengths.tolist()):
        first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
        positions = slots(inputs, sequence).to(q.device)
        stored = length if inputs.tree_masks is None else length - (end - first)
        kernels = torch.as_tensor(cache.read_kernels(layer, sequence, count(stored, sparse), inputs)).to(q)
        blocks = -(-length // sparse.block_size)
        if sparse.estimator == "signs":
            keys = torch.as_tensor(cache.read(layer, sequence, inputs)[0]).to(q)[:stored]
            keys = upright(keys, rope) if sparse.use_nope else keys
            pooled = sign_mass(q[first:end], coded(keys, kernels, sparse), positions, blocks, scale, sparse)
        else:
            pooled = pool_to_blocks(kernel_mass(q[first:end], kernels, positions, scale, sparse), blocks, sparse)
        scores[:, first:end, :blocks] = force(pooled, positions, sparse)
    return scores


def slots(inputs: Any, sequence: int) -> Tensor:
    """The place of each row of one sequence among its keys, [n]."""
    first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
    length = int(inputs.kv_lengths[sequence])
    if inputs.tree_masks is None:
        return torch.arange(length - (end - first), length)
    return torch.as_tensor(inputs.positions[first:end], dtype=torch.long)


def kernel_mass(q: Tensor, kernels: Tensor, positions: Tensor, scale: float, sparse: Any) -> Tensor:
    """P: q [n, H, D], kernels [v, G, D] and positions [n] to [G, n, v]."""
    groups = kernels.shape[1]
    heads = q.reshape(q.shape[0], groups, -1, q.shape[-1])
    scores = scale * torch.einsum("nghd,vgd->ghnv", heads, kernels)
    scores = scores.masked_fill(~visible(positions, kernels.shape[0], sparse.kernel_size, sparse), -torch.inf)
    normaliser = torch.logsumexp(
        scores if sparse.lse == "exact" else _coarse(heads, kernels, positions, scale, sparse), -1
    )
    mass = torch.exp(scores - normaliser[..., None]).sum(1)
    return torch.where(torch.isfinite(mass), mass, 0)


def visible(positions: Tensor, kernels: int, size: int, sparse: Any, strides: int = 1) -> Tensor:
    """[n, kernels]: kernel i, of ``size`` tokens and ``strides`` strides apart, ends at or before the position."""
    last = torch.arange(kernels, device=positions.device) * sparse.kernel_stride * strides + size - 1
    seen: Tensor = last <= positions[:, None]
    return seen


def pool_to_blocks(mass: Tensor, blocks: int, sparse: Any) -> Tensor:
    """The largest P among the kernels that overlap each block: [G, n, v] to [G, n, blocks]."""
    ratio = sparse.block_size // sparse.kernel_stride
    padded = mass.new_full((*mass.shape[:2], blocks * ratio + 1), -torch.inf)  # kernel i at i + 1
    fitting = min(mass.shape[2], blocks * ratio)
    padded[..., 1 : 1 + fitting] = mass[..., :fitting]
    return padded.unfold(-1, ratio + 1, ratio).amax(-1)


def coded(keys: Tensor, kernels: Tensor, sparse: Any) -> Tensor:
    """What the sign codes of whole blocks tell of their keys: [L, G, D] and kernels [v, G, D] to [64 b, G, D]."""
    size = sparse.kernel_size
    whole = len(keys) // sparse.block_size * sparse.block_size
    centres = kernels[:: size // sparse.kernel_stride][: whole // size].repeat_interleave(size, 0)
    mixing = mixer(keys.shape[-1]).to(keys)
    rest = (keys[:whole] - centres) @ mixing
    step = rest.square().sum(-1, keepdim=True) / rest.abs().sum(-1, keepdim=True).clamp_min(1e-20)
    return centres + torch.where(rest < 0, -step, step) @ mixing.T


def sign_mass(q: Tensor, codes: Tensor, positions: Tensor, blocks: int, scale: float, sparse: Any) -> Tensor:
    """P of whole blocks: q [n, H, D], codes [64 b, G, D], positions [n] to [G, n, blocks]; +inf where there is no code."""
    heads = q.unflatten(1, (codes.shape[1], -1))
    scores = scale * torch.einsum("nghd,lgd->ghnl", heads, codes.to(q))
    estimates = torch.logsumexp(scores.unflatten(-1, (-1, sparse.block_size)), -1)
    before = torch.arange(estimates.shape[-1], device=q.device) < (positions // sparse.block_size)[:, None]
    estimates = estimates.masked_fill(~before, -torch.inf)
    mass = torch.exp(estimates - torch.logsumexp(estimates, -1, keepdim=True)).sum(1)
    mass = torch.where(torch.isfinite(mass), mass, 0)
    return torch.nn.functional.pad(mass, (0, blocks - mass.shape[-1]), value=torch.inf)


@remembered
def mixer(dim: int) -> Tensor:
    """R: an orthogonal matrix fp32 [D, D] that spreads each channel over all: the cosine transform, rows with signs."""
    place = torch.arange(dim, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * place[:, None] + 1) * place / (2 * dim)) * math.sqrt(2 / dim)
    matrix[:, 0] /= math.sqrt(2)
    state, signs = 1, []
    for _ in range(dim):
        state = state * 48271 % 2147483647
        signs.append(1.0 if state >> 15 & 1 else -1.0)
    return (torch.tensor(signs, dtype=torch.float64)[:, None] * matrix).float()


def force(scores: Tensor, positions: Tensor, sparse: Any) -> Tensor:
    """+inf for first and local blocks, -inf beyond the token's own: scores [G, n, b], positions [n]."""
    block = torch.arange(scores.shape[-1], device=scores.device)
    own = (positions // sparse.block_size)[:, None]
    local = block >= own - sparse.local_blocks
    scores = scores.masked_fill(local | (block < sparse.init_blocks), torch.inf)
    return scores.masked_fill(block > own, -torch.inf)


def _coarse(heads: Tensor, kernels: Tensor, positions: Tensor, scale: float, sparse: Any) -> Tensor:
    """Scores of the coarse kernels [G, h, n, v4]; those that end beyond a position are -inf, as all are if there is none."""
    windows = kernels.unfold(0, 2 * COARSE - 1, COARSE) if len(kernels) >= 2 * COARSE - 1 else None
    if windows is None:
        return heads.new_full((*heads.transpose(0, 1).transpose(1, 2).shape[:3], 1), -torch.inf)
    coarse = windows[..., ::2].mean(-1)
    scores = scale * torch.einsum("nghd,vgd->ghnv", heads, coarse)
    seen = visible(positions, len(coarse), sparse.kernel_stride * 2 * COARSE, sparse, COARSE)
    return scores.masked_fill(~seen, -torch.inf)
