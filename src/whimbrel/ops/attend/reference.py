"""attend in torch. Shapes: n rows of one sequence, L keys, b blocks."""

from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.cases import BLOCK_SIZE
from whimbrel.ops.reference import needs_tensor


def why_not(q: Any, cache: Any) -> str | None:
    """Needs a torch input."""
    return needs_tensor(q)


def run(q: Tensor, inputs: Any, cache: Any, layer: int, *, scale: float, blocks: Any | None = None) -> Tensor:
    """[T, H, D] to [T, H * D], one sequence after the other."""
    outputs = []
    for sequence, (first, end) in enumerate(zip(inputs.cu_seqlens[:-1], inputs.cu_seqlens[1:], strict=True)):
        keys, values = cache.read(layer, sequence, inputs)
        seen = causal(inputs, sequence).to(q.device)
        if blocks is not None:
            lists = torch.as_tensor(blocks, device=q.device)[:, first:end]
            seen = seen & listed(lists, keys.shape[0])
        probabilities = _probabilities(q[first:end], keys.to(q), seen, scale)
        if inputs.block_mass is not None and end - first == 1:
            _add_mass(inputs.block_mass[sequence], probabilities)
        outputs.append(torch.einsum("ghnl,lgd->nghd", probabilities, values.to(q)))
    return torch.cat(outputs).flatten(1)


def causal(inputs: Any, sequence: int) -> Tensor:
    """[n, L] bool: the row sees the key, by its place in the sequence or by its tree mask."""
    first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
    rows, length = end - first, int(inputs.kv_lengths[sequence])
    if inputs.tree_masks is None:
        return torch.ones(rows, length, dtype=torch.bool).tril(length - rows)
    words = torch.from_numpy(inputs.tree_masks[first:end].astype("int64"))
    tree = (words[:, None] >> torch.arange(rows)) & 1
    return torch.cat([torch.ones(rows, length - rows, dtype=torch.bool), tree.bool()], 1)


def listed(lists: Tensor, length: int, block_size: int = BLOCK_SIZE) -> Tensor:
    """Lists int32 [G, n, K] to bool [G, n, L]: the key's block is in the row's list, or the list is empty.

    Raises ``ValueError`` for a block that the sequence doesn't have.
    """
    blocks = -(-length // block_size)
    if lists.numel() and int(lists.max()) >= blocks:
        raise ValueError(f"a block list names block {int(lists.max())}, the sequence has {blocks}")
    chosen = torch.zeros(*lists.shape[:2], blocks + 1, dtype=torch.bool, device=lists.device)
    chosen.scatter_(-1, torch.where(lists < 0, blocks, lists).long(), True)
    chosen[..., :-1] |= (lists < 0).all(-1, keepdim=True)
    return chosen[..., :-1].repeat_interleave(block_size, -1)[..., :length]


def _probabilities(q: Tensor, keys: Tensor, seen: Tensor, scale: float) -> Tensor:
    """q [n, H, D], keys [L, G, D], seen [n, L] or [G, n, L], to [G, H / G, n, L]."""
    heads = q.reshape(q.shape[0], keys.shape[1], -1, q.shape[-1])
    scores = scale * torch.einsum("nghd,lgd->ghnl", heads, keys)
    seen = seen[None, None] if seen.ndim == 2 else seen[:, None]
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.softmax(scores.masked_fill(~seen, -torch.inf), -1, dtype=wide).to(q.dtype)


def _add_mass(mass: Any, probabilities: Tensor) -> None:
    """Add what one row gives to each block: mass [G, max_blocks], probabilities [G, h, 1, L]."""
    keys = probabilities.detach().sum(1)[:, 0]
    padded = torch.nn.functional.pad(keys, (0, -keys.shape[-1] % BLOCK_SIZE))
    per_block = padded.reshape(len(keys), -1, BLOCK_SIZE).sum(-1)
    mass[:, : per_block.shape[-1]] += per_block.cpu().numpy()
