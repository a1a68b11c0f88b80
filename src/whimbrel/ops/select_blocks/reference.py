"""select_blocks in torch."""

from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.block_scores import reference as block_scores
from whimbrel.ops.reference import needs_tensor


def why_not(q: Any, cache: Any, sparse: Any) -> str | None:
    """Needs a torch input."""
    return needs_tensor(q)


@torch.no_grad()
def run(
    q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, sparse: Any, rope: Any | None = None
) -> Tensor | None:
    """[T, H, D] to int32 [G, T, K], or None."""
    sequences = range(len(inputs.kv_lengths))
    positions = torch.cat([block_scores.slots(inputs, sequence) for sequence in sequences]).to(q.device)
    dense = is_dense(positions, sparse)
    if dense.all():
        return None
    scores = block_scores.run(q, inputs, cache, layer, scale=scale, sparse=sparse, rope=rope)
    return top_blocks(scores, sparse).masked_fill(dense[:, None], -1)


def is_dense(positions: Tensor, sparse: Any) -> Tensor:
    """[n] bool: the token attends to everything."""
    dense: Tensor = (positions + 1 < sparse.dense_len) | (positions // sparse.block_size < sparse.num_blocks)
    return dense


def first_sparse(sparse: Any) -> int:
    """The first position that doesn't attend to everything."""
    return int(max(sparse.dense_len - 1, sparse.num_blocks * sparse.block_size))


def top_blocks(scores: Tensor, sparse: Any) -> Tensor:
    """Scores [G, n, b] to ascending block numbers int32 [G, n, K], -1 behind the last."""
    order = torch.argsort(scores, dim=-1, descending=True, stable=True)[..., : sparse.num_blocks]
    beyond = scores.gather(-1, order) == -torch.inf
    blocks = order.masked_fill(beyond, scores.shape[-1]).sort(-1).values
    blocks = blocks.masked_fill(blocks == scores.shape[-1], -1).to(torch.int32)
    return torch.nn.functional.pad(blocks, (0, sparse.num_blocks - blocks.shape[-1]), value=-1)
