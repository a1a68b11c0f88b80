"""InfLLM v2 attention over plain tensors, for training and for models that whimbrel does not run itself.

The semantics are those of ``ops/select_blocks`` and ``ops/attend``; the shapes are those of other libraries. Memory grows
with the number of keys, not with its square: queries are taken 64 at a time (one block, so that they share most of their
lists), against the union of the blocks that they chose; the backward pass computes the scores of such a tile again.
On CUDA (and under Triton's interpreter) the Triton kernels of ``ops`` choose and attend.

Shapes: B sequences, H query heads, G key/value heads, D head_dim, T queries (the last ones of L keys), K blocks in a list.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whimbrel.attention.sparse import SparseConfig
from whimbrel.errors import UnsupportedCapability
from whimbrel.ops.block_scores import reference as block_scores
from whimbrel.ops.select_blocks.reference import first_sparse, top_blocks
from whimbrel.ops.semantic_kernels.reference import count, means
from whimbrel.train.device import has_kernels

ROWS = 64
"""Queries of a tile. With 12 blocks of 128 (9 heads, 8,192 tokens) it takes half of dense attention's time if neighbours
choose alike, and 2.5 times as long if all choose at random: then a tile's union is half of all blocks."""

SELECTED = 256
"""Queries that choose at a time: 64 and 1,024 at a time take a sixth longer (8,192 tokens, 9 heads)."""


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, *, sparse: SparseConfig, scale: float | None = None, starts: Tensor | None = None
) -> Tensor:
    """Causal attention in which late queries see ``sparse.num_blocks`` blocks: ``[B, H, T, D]`` to the same.

    ``k`` and ``v`` are ``[B, G, L, D]`` with L >= T; query ``t`` stands at key ``L - T + t``. ``starts`` ``[B]`` is the
    first key of each sequence (left padding); positions count from there, and rows before it are 0. ``scale`` defaults
    to ``D ** -0.5``. Which queries are sparse follows from ``sparse.dense_len`` as in ``ops/select_blocks``.
    Differentiable in q, k and v; the choice of blocks carries no gradient. Computed in at least fp32.
    Raises ``UnsupportedCapability`` for ``use_nope``: keys before their rotation are not at hand here.
    Source: InfLLM-V2 (2025), section 3.
    """
    if sparse.use_nope:
        raise UnsupportedCapability(
            "sparse attention over rotated keys was asked to choose by keys before their rotation (use_nope); "
            "set use_nope to false, or run the model in whimbrel's engine"
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    first_keys = [0] * len(q) if starts is None else starts.tolist()
    parts = zip(q, k, v, first_keys, strict=True)
    return torch.stack([_sequence(query, key, value, start, sparse, scale) for query, key, value, start in parts])


def select(q: Tensor, k: Tensor, *, sparse: SparseConfig, scale: float) -> Tensor:
    """Lists int32 ``[G, T, K]`` of one sequence's last queries ``[H, T, D]`` over its keys ``[G, L, D]``.

    Every query gets a list, whatever ``dense_len`` says.
    """
    if has_kernels(q) and sparse.estimator == "kernels":
        from whimbrel.ops.select_blocks.triton import of_keys

        with torch.no_grad():
            return of_keys(q.detach().transpose(0, 1), k.detach().transpose(0, 1), scale=scale, sparse=sparse)
    with torch.no_grad():
        keys = k.detach().transpose(0, 1)
        kernels = means(keys, sparse)
        if sparse.estimator == "signs":
            kernels = block_scores.coded(keys, kernels, sparse)
        first = k.shape[1] - q.shape[1]
        chosen = [
            _choose(q[:, row : row + SELECTED], kernels, first + row, scale, sparse)
            for row in range(0, q.shape[1], SELECTED)
        ]
        return torch.cat(chosen, 1)


def listed_attention(q: Tensor, k: Tensor, v: Tensor, lists: Tensor, *, scale: float) -> Tensor:
    """Causal attention of ``[H, T, D]`` over the listed blocks of keys and values ``[G, L, D]``: ``[H, T, D]``.

    ``lists`` ``[G, T, K]`` as ``select`` gives them, none empty. Differentiable in q, k and v.
    """
    if has_kernels(q):
        from whimbrel.ops.attend.triton import listed_attention as attend

        return attend(q, k, v, lists, scale=scale)
    result: Tensor = _Listed.apply(q, k, v, lists, scale)  # type: ignore[no-untyped-call]
    return result


def dense_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Causal attention of ``[H, T, D]`` over all keys and values ``[G, L, D]`` by torch: ``[H, T, D]``."""
    rows, length = q.shape[1], k.shape[1]
    k, v = (part.repeat_interleave(len(q) // len(part), 0)[None] for part in (k, v))
    attention = functional.scaled_dot_product_attention
    if rows == length:
        return attention(q[None], k, v, is_causal=True, scale=scale)[0]
    parts = []
    for row in range(0, rows, 16 * ROWS):  # a mask of all rows would grow with the square
        part = q[None, :, row : row + 16 * ROWS]
        seen = length - rows + row + part.shape[2]
        mask = torch.ones(part.shape[2], seen, dtype=torch.bool, device=q.device).tril(seen - part.shape[2])
        parts.append(attention(part, k[:, :, :seen], v[:, :, :seen], attn_mask=mask, scale=scale)[0])
    return torch.cat(parts, 1)


def _sequence(q: Tensor, k: Tensor, v: Tensor, start: int, sparse: SparseConfig, scale: float) -> Tensor:
    """One sequence, ``[H, T, D]``, whose keys begin at ``start``."""
    rows, keys = q.shape[1], k.shape[1] - start
    padding = max(0, rows - keys)
    q, k, v = q[:, padding:], k[:, start:], v[:, start:]
    dense_rows = min(q.shape[1], max(0, first_sparse(sparse) - (keys - q.shape[1])))
    parts = [q.new_zeros(len(q), padding, q.shape[2])] if padding else []
    if dense_rows:
        seen = keys - (q.shape[1] - dense_rows)
        parts.append(dense_attention(q[:, :dense_rows], k[:, :seen], v[:, :seen], scale=scale))
    if dense_rows < q.shape[1]:
        late = q[:, dense_rows:]
        parts.append(listed_attention(late, k, v, select(late, k, sparse=sparse, scale=scale), scale=scale))
    return torch.cat(parts, 1)


def _choose(q: Tensor, kernels: Tensor, position: int, scale: float, sparse: SparseConfig) -> Tensor:
    """Lists [G, n, K] of rows [H, n, D], the first of which stands at ``position``; kernels [v, G, D], or key codes."""
    positions = torch.arange(position, position + q.shape[1], device=q.device)
    length = position + q.shape[1]
    blocks = -(-length // sparse.block_size)
    if sparse.estimator == "signs":
        codes = kernels[: length // sparse.block_size * sparse.block_size]
        pooled = block_scores.sign_mass(_wide(q)[0].transpose(0, 1), codes, positions, blocks, scale, sparse)
    else:
        mass = _kernel_mass(q, kernels[: count(length, sparse)], positions, scale, sparse)
        pooled = block_scores.pool_to_blocks(mass, blocks, sparse)
    return top_blocks(block_scores.force(pooled, positions, sparse), sparse)


def _kernel_mass(q: Tensor, kernels: Tensor, positions: Tensor, scale: float, sparse: SparseConfig) -> Tensor:
    """``block_scores.kernel_mass`` in a fourth of its time: exponentials in place, masks on sums over heads.

    q [H, n, D], kernels [v, G, D] and positions [n] to [G, n, v].
    """
    groups, rows = kernels.shape[1], q.shape[1]
    heads = _wide(q)[0].reshape(groups, -1, q.shape[2])
    scores = _scores(heads, kernels, scale)
    seen = block_scores.visible(positions, len(kernels), sparse.kernel_size, sparse)
    if sparse.lse == "exact":
        norms = _log_sum(scores, seen)
    else:
        coarse = kernels.unfold(0, 7, 4)[..., ::2].mean(-1) if len(kernels) >= 7 else kernels[:0]
        norms = _log_sum(
            _scores(heads, coarse, scale),
            block_scores.visible(positions, len(coarse), 4 * sparse.kernel_size, sparse, block_scores.COARSE),
        )
    mass: Tensor = scores.sub_(norms).exp_().reshape(groups, -1, rows, len(kernels)).sum(1)
    return mass.masked_fill_(~(seen & mass.isfinite()), 0)


def _scores(heads: Tensor, kernels: Tensor, scale: float) -> Tensor:
    """[G, h n, D] and [v, G, D] to [G, h n, v]."""
    return torch.bmm(heads, kernels.to(heads.dtype).permute(1, 2, 0) * scale)


def _log_sum(scores: Tensor, seen: Tensor) -> Tensor:
    """logsumexp of [G, h n, v] over those seen [n, v], [G, h n, 1]; -inf where there are none."""
    rows = scores.unflatten(1, (-1, len(seen))).masked_fill(~seen, -torch.inf)
    if not seen.shape[1]:
        return scores.new_full((*scores.shape[:2], 1), -torch.inf)
    return torch.logsumexp(rows, -1, keepdim=True).flatten(1, 2)


class _Tiles:
    """The work of a listed attention: 64 rows of one key/value head and the union of their blocks, one after the other."""

    def __init__(self, q: Tensor, k: Tensor, lists: Tensor) -> None:
        self.heads, self.rows = len(q) // len(k), q.shape[1]
        self.first = k.shape[1] - self.rows
        self.blocks = -(-k.shape[1] // ROWS)
        self.lists = lists

    def __iter__(self) -> Any:
        """(head, query heads, rows, blocks int64 [U], bias [rows, 64 U] of 0 and -inf)."""
        offsets = torch.arange(ROWS, device=self.lists.device)
        start = 0
        while start < self.rows:
            stop = min(self.rows, start + ROWS - (self.first + start) % ROWS)
            positions = torch.arange(self.first + start, self.first + stop, device=self.lists.device)
            part = self.lists[:, start:stop].long()
            chosen = torch.zeros(*part.shape[:2], self.blocks + 1, dtype=torch.bool, device=part.device)
            chosen.scatter_(-1, part.masked_fill(part < 0, self.blocks), True)
            for head, member in enumerate(chosen[..., :-1]):
                union = member.any(0).nonzero()[:, 0]
                seen = member[:, union, None] & ((union[:, None] * ROWS + offsets) <= positions[:, None, None])
                bias = torch.zeros(seen.shape, device=part.device).masked_fill_(~seen, -torch.inf).flatten(1)
                yield head, slice(head * self.heads, (head + 1) * self.heads), slice(start, stop), union, bias
            start = stop

    def paged(self, x: Tensor) -> Tensor:
        """[G, L, D] as blocks [G, b, 64, D], the last one filled up with zeros."""
        padded = functional.pad(x, (0, 0, 0, self.blocks * ROWS - x.shape[1]))
        return padded.reshape(len(x), self.blocks, ROWS, -1)


class _Listed(torch.autograd.Function):
    """Attention over block lists, tile by tile; the backward pass computes every tile's probabilities again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, lists: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, lists)
        ctx.scale = scale
        tiles, out = _Tiles(q, k, lists), torch.empty_like(q)
        keys, values = tiles.paged(k), tiles.paged(v)
        for head, heads, rows, union, bias in tiles:
            queries, keys_U, values_U = _wide(q[heads, rows], keys[head, union], values[head, union])
            probabilities = _probabilities(queries, keys_U.flatten(0, 1), bias, scale)
            out[heads, rows] = (probabilities @ values_U.flatten(0, 1)).to(q.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, lists = ctx.saved_tensors
        tiles = _Tiles(q, k, lists)
        keys, values = tiles.paged(k), tiles.paged(v)
        wide = torch.promote_types(q.dtype, torch.float32)
        dq = torch.empty_like(q)
        dk, dv = (torch.zeros(part.shape, dtype=wide, device=q.device) for part in (keys, values))
        for head, heads, rows, union, bias in tiles:
            tile = (q[heads, rows], gradients[0][heads, rows], keys[head, union], values[head, union])
            queries, d_out, keys_U, values_U = _wide(*tile)
            keys_U, values_U = keys_U.flatten(0, 1), values_U.flatten(0, 1)
            probabilities = _probabilities(queries, keys_U, bias, ctx.scale)
            d_scores = torch._softmax_backward_data(d_out @ values_U.T, probabilities, -1, wide).mul_(ctx.scale)
            dq[heads, rows] = (d_scores @ keys_U).to(q.dtype)
            dk[head].index_add_(0, union, _over_heads(d_scores, queries).unflatten(0, (-1, ROWS)))
            dv[head].index_add_(0, union, _over_heads(probabilities, d_out).unflatten(0, (-1, ROWS)))
        length = k.shape[1]
        return dq, dk.flatten(1, 2)[:, :length].to(k.dtype), dv.flatten(1, 2)[:, :length].to(v.dtype), None, None


def _wide(*tensors: Tensor) -> list[Tensor]:
    """In at least fp32."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def _probabilities(q: Tensor, keys: Tensor, bias: Tensor, scale: float) -> Tensor:
    """[h, n, D], [l, D] and [n, l] to [h, n, l]."""
    scores = torch.baddbmm(bias.to(q.dtype), q, keys.T.expand(len(q), -1, -1), alpha=scale)
    return torch.softmax(scores, -1)


def _over_heads(weights: Tensor, rows: Tensor) -> Tensor:
    """sum_h weights[h]^T rows[h]: [h, n, l] and [h, n, D] to [l, D]."""
    return weights.flatten(0, 1).T @ rows.flatten(0, 1)
