"""Causal attention of packed pieces where launches are dear: few calls of torch's own, over padded pieces.

Pieces are padded to the longest of their bucket; a bucket ends where a piece has half of that or less, so that at most
half of its rows are padding, and there are at most log2(longest) calls. Rows behind a piece's end see what lies before
them and are seen by none. On CUDA torch chooses its flash kernel for bf16 and its memory-efficient one for fp32.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from whimbrel.train.packed_attention import attend
from whimbrel.train.packed_view import PackedView


class PaddedAttention:
    """``ops/attend`` of training: padded pieces on other devices, ``packed_attention`` on the CPU and for lists of blocks."""

    def __init__(self) -> None:
        self._last: tuple[npt.NDArray[np.int32], Padding] | None = None

    def __call__(
        self, q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Tensor | None = None
    ) -> Tensor:
        """``[T, H, D]`` to ``[T, H * D]``."""
        whole = bool((np.diff(inputs.cu_seqlens) == inputs.kv_lengths).all())
        if q.device.type == "cpu" or blocks is not None or not whole:
            return attend(q, inputs, cache, layer, scale=scale, blocks=blocks)
        if self._last is None or self._last[0] is not inputs.cu_seqlens:
            self._last = inputs.cu_seqlens, Padding(inputs.cu_seqlens, q.device)
        if isinstance(cache, PackedView):
            keys, values = cache.packed(layer)
        else:
            stored = [cache.read(layer, sequence, inputs) for sequence in range(len(inputs.kv_lengths))]
            keys, values = (torch.cat([pair[part] for pair in stored]) for part in (0, 1))
        return padded_attention(q, keys, values, self._last[1], scale).flatten(1)


class Padding:
    """Where the rows of packed pieces lie among padded ones."""

    def __init__(self, cu_seqlens: npt.NDArray[np.int32], device: torch.device) -> None:
        lengths = np.diff(cu_seqlens)
        order = np.argsort(-lengths, kind="stable")
        ends = [0]
        self.buckets: list[tuple[int, int]] = []
        """(pieces, rows of each), the longest first"""
        while ends[-1] < len(order):
            longest = int(lengths[order[ends[-1]]])
            ends.append(int((2 * lengths > longest).sum()))
            self.buckets.append((ends[-1] - ends[-2], longest))
        starts = np.zeros(len(lengths), np.int64)
        self.rows = 0
        """of all buckets"""
        for (first, end), (pieces, longest) in zip(pairwise(ends), self.buckets, strict=True):
            starts[order[first:end]] = self.rows + longest * np.arange(pieces)
            self.rows += longest * pieces
        shift = np.repeat(starts - cu_seqlens[:-1], lengths)
        self.slots = torch.from_numpy(np.arange(len(shift)) + shift).to(device)
        """int64 [T] the padded row of each row"""


def padded_attention(q: Tensor, k: Tensor, v: Tensor, padding: Padding, scale: float) -> Tensor:
    """``[T, H, D]`` of queries and ``[T, G, D]`` of keys and values to ``[T, H, D]``; rows of a piece see that piece."""
    heads = q.shape[1]
    q, k, v = (x.new_zeros(padding.rows, *x.shape[1:]).index_copy(0, padding.slots, x) for x in (q, k, v))
    first, parts = 0, []
    for pieces, longest in padding.buckets:
        bucket = slice(first, first + pieces * longest)
        a, b, c = (x[bucket].unflatten(0, (pieces, longest)).transpose(1, 2) for x in (q, k, v))
        b, c = (x.repeat_interleave(heads // x.shape[1], 1) for x in (b, c))
        out = functional.scaled_dot_product_attention(a, b, c, is_causal=True, scale=scale)
        parts.append(out.transpose(1, 2).flatten(0, 1))
        first = bucket.stop
    return torch.cat(parts).index_select(0, padding.slots)
