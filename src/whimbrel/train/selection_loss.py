"""How far block selection is from what full attention would read, as a loss.

InfLLM v2 trains only what a query attends to; a block that was not chosen teaches nothing. This adds the missing
signal without any parameter: semantic kernels are asked to rank blocks as the same queries' full attention does.

    t[b] = sum_g sum_{j in b} softmax_j(scale * q[g] . k[j])      blocks that are not forced; no gradient; normalised
    s = softmax(8 log P)                                           block_scores of the same blocks, with gradient
    loss = w sum_b t[b] (log t[b] - log s[b])                      w: the share of attention that such blocks have

Source: the idea of training a selector on attention's own mass is DeepSeek-V3.2's (2025) for its indexer; here there is
no indexer, and the gradient goes to the query and key projections.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from whimbrel.attention.sparse import SparseConfig
from whimbrel.ops.block_scores import reference as block_scores
from whimbrel.ops.semantic_kernels.reference import means
from whimbrel.ops.table import OpTable

FLOOR = 1e-9
"""keeps logarithms finite"""

SHARPNESS = 8.0
"""Only the order of blocks counts. A key that stands out by 9 stands out by 0.3 in the average of its 32, which is enough
if the other averages are calm; the factor lets the loss be satisfied with that."""


class SelectionLoss:
    """Watches ``attend`` of one forward pass, sparse or dense; ``total()`` is the mean over all that was watched."""

    def __init__(self, rows: npt.NDArray[np.int64], sparse: SparseConfig) -> None:
        """``rows`` [S, R]: the rows of each sequence to look at; all behind the first ``num_blocks`` blocks."""
        self.rows, self.sparse = torch.from_numpy(rows), sparse
        self.losses: list[Tensor] = []

    def watch(self, ops: OpTable) -> OpTable:
        """The same ops, with eyes."""

        def attend(q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Tensor | None) -> Any:
            for sequence, rows in enumerate(self.rows):
                first = int(inputs.cu_seqlens[sequence])
                keys, _ = cache.read(layer, sequence, inputs)
                self.losses.append(selection_loss(q[first + rows], keys, rows, scale, self.sparse))
            return ops.attend(q, inputs, cache, layer, scale=scale, blocks=blocks)

        return replace(ops, attend=attend)

    def total(self) -> Tensor:
        """The loss of all that was watched."""
        return torch.stack(self.losses).mean()


def selection_loss(q: Tensor, keys: Tensor, positions: Tensor, scale: float, sparse: Any) -> Tensor:
    """Rows [n, H, D] at ``positions`` [n] over keys [L, G, D] of their sequence; the mean over rows and key heads."""
    blocks = -(-len(keys) // sparse.block_size)
    mass = block_scores.kernel_mass(q, means(keys, sparse), positions, scale, sparse)
    pooled = block_scores.pool_to_blocks(mass, blocks, sparse)
    free = torch.isfinite(block_scores.force(pooled.detach(), positions, sparse))
    ranked = torch.where(free, SHARPNESS * (torch.where(free, pooled, 1) + FLOOR).log(), -torch.inf)
    student = torch.where(free, torch.log_softmax(ranked, -1), 0)
    with torch.no_grad():
        teacher = torch.where(free, block_mass(q, keys, positions, scale, sparse), 0)
        weight = teacher.sum(-1)
        teacher = (teacher + FLOOR) / (teacher + FLOOR).sum(-1, keepdim=True)
    divergence = (teacher * (teacher.log() - student)).masked_fill(~free, 0).sum(-1)
    return (weight * divergence).mean()


def block_mass(q: Tensor, keys: Tensor, positions: Tensor, scale: float, sparse: Any) -> Tensor:
    """What full attention gives to each block, averaged over the heads of a group: [G, n, blocks], sums to 1."""
    heads = q.unflatten(1, (keys.shape[1], -1))
    scores = scale * torch.einsum("nghd,lgd->ghnl", heads, keys)
    future = torch.arange(len(keys), device=q.device) > positions[:, None]
    probabilities = torch.softmax(scores.masked_fill(future, -torch.inf), -1).mean(1)
    padded = torch.nn.functional.pad(probabilities, (0, -len(keys) % sparse.block_size))
    mass: Tensor = padded.unflatten(-1, (-1, sparse.block_size)).sum(-1)
    return mass
