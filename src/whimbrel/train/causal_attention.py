"""Causal attention of packed pieces by products of matrices: fp32 or bf16, one autograd node for the whole batch.

Rows are taken ``ROWS`` at a time with the keys that they can see, so that what lies above the diagonal is mostly never
computed; query heads that share a key head are rows of one product, so that no key is repeated. Probabilities are kept
for the backward pass: for pieces up to a few thousand tokens that is faster than to make them again.
Measured on one core of an AMD EPYC (Zen 4), forward and backward, 4 pieces of 512 tokens, 3 heads on 1 key head of 64:
see docs/training.md.
"""

from typing import Any

import torch
from torch import Tensor

ROWS = 128

Bounds = list[tuple[int, int]]


def causal_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, scale: float) -> Tensor:
    """``[T, H, D]`` of queries and ``[T, G, D]`` of keys and values to ``[T, H, D]``; rows of a piece see that piece.

    ``bounds`` are (first, end) of each piece; the shapes are those of ``packed_attention.attend``.
    """
    result: Tensor = _Causal.apply(q, k, v, bounds, scale)  # type: ignore[no-untyped-call]
    return result


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bounds: Bounds, scale: float) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            out, kept, wide = torch.empty_like(q), [], torch.promote_types(q.dtype, torch.float32)
            for first, end, equal in _together(bounds):
                keys, values = _grouped(k, first, end, equal), _grouped(v, first, end, equal)
                for start, stop in _tiles((end - first) // equal):
                    queries = _rows(q, k, first, end, equal, start, stop)
                    scores = torch.bmm(queries, keys[:, :stop].transpose(1, 2)).to(wide).mul_(scale)
                    _hide(scores, start, stop)
                    probabilities = torch.softmax(scores, -1, out=scores).to(q.dtype)
                    kept.append(probabilities)
                    _put(out, torch.bmm(probabilities, values[:, :stop]), k.shape[1], first, end, equal, start, stop)
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.bounds, ctx.scale = bounds, scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, *kept = ctx.saved_tensors
        groups = k.shape[1]
        of_q, of_k, of_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        means = (gradient * out).sum(-1, keepdim=True)  # of each row's gradient of its probabilities
        tiles = iter(kept)
        for first, end, equal in _together(ctx.bounds):
            keys, values = _grouped(k, first, end, equal), _grouped(v, first, end, equal)
            sum_k, sum_v = torch.zeros_like(keys), torch.zeros_like(values)
            for start, stop in _tiles((end - first) // equal):
                place = (first, end, equal, start, stop)
                probabilities, queries = next(tiles), _rows(q, k, *place)
                incoming, mean = _rows(gradient, k, *place), _rows(means, k, *place)
                sum_v[:, :stop].baddbmm_(probabilities.transpose(1, 2), incoming)
                change = torch.bmm(incoming, values[:, :stop].transpose(1, 2)).sub_(mean).mul_(probabilities)
                _put(of_q, torch.bmm(change, keys[:, :stop]).mul_(ctx.scale), groups, *place)
                sum_k[:, :stop].baddbmm_(change.transpose(1, 2), queries, alpha=ctx.scale)
            for target, value in ((of_k, sum_k), (of_v, sum_v)):
                target[first:end] = value.unflatten(0, (equal, groups)).transpose(1, 2).flatten(0, 1)
        return of_q, of_k, of_v, None, None


def _together(bounds: Bounds) -> list[tuple[int, int, int]]:
    """Neighbouring pieces of equal length as (first, end, how many)."""
    runs: list[tuple[int, int, int]] = []
    for first, end in bounds:
        if runs and (runs[-1][1] - runs[-1][0]) // runs[-1][2] == end - first:
            runs[-1] = (runs[-1][0], end, runs[-1][2] + 1)
        else:
            runs.append((first, end, 1))
    return runs


def _tiles(length: int) -> list[tuple[int, int]]:
    return [(start, min(length, start + ROWS)) for start in range(0, length, ROWS)]


def _grouped(x: Tensor, first: int, end: int, equal: int) -> Tensor:
    """Keys or values as [pieces * G, n, D]."""
    whole: Tensor = x[first:end].unflatten(0, (equal, -1))
    return whole.transpose(1, 2).flatten(0, 1)


def _rows(x: Tensor, k: Tensor, first: int, end: int, equal: int, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of each piece, the heads of a group after each other: [pieces * G, H / G * rows, D]."""
    part: Tensor = x[first:end].unflatten(0, (equal, -1))[:, start:stop].unflatten(2, (k.shape[1], -1))
    return part.permute(0, 2, 3, 1, 4).flatten(2, 3).flatten(0, 1)


def _put(out: Tensor, rows: Tensor, groups: int, first: int, end: int, equal: int, start: int, stop: int) -> None:
    """The inverse of ``_rows``."""
    part = rows.unflatten(0, (equal, groups)).unflatten(2, (-1, stop - start)).permute(0, 3, 1, 2, 4)
    out[first:end].unflatten(0, (equal, -1))[:, start:stop] = part.flatten(2, 3)


def _hide(scores: Tensor, start: int, stop: int) -> None:
    """Keys behind their row, which are in the last square only; scores [B, heads * rows, stop]."""
    size = stop - start
    future = torch.ones(size, size, dtype=torch.bool, device=scores.device).triu(1)
    scores.unflatten(1, (-1, size))[..., start:].masked_fill_(future, -torch.inf)
