"""semantic_kernels in torch."""

from typing import Any

import torch
from torch import Tensor

from whimbrel.ops.rotary_write.reference import rotate


def why_not(cache: Any, sparse: Any) -> str | None:
    """Needs a cache that reads keys as tensors."""
    return None if cache.pool is None else "the reference needs a cache of torch tensors, this one is native"


def run(inputs: Any, cache: Any, layer: int, *, sparse: Any, rope: Any | None = None) -> None:
    """Writes the kernels that end in this step, one sequence after the other."""
    if inputs.tree_masks is not None:
        return
    for sequence, length in enumerate(inputs.kv_lengths.tolist()):
        first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
        old, new = (count(tokens, sparse) for tokens in (length - (end - first), length))
        if new > old:
            keys = torch.as_tensor(cache.read(layer, sequence, inputs)[0]).detach()
            keys = upright(keys, rope) if sparse.use_nope else keys
            kernels = means(keys[old * sparse.kernel_stride :], sparse)
            cache.write_kernels(layer, sequence, old, kernels, inputs)


def count(tokens: int, sparse: Any) -> int:
    """Kernels that end within the first ``tokens``."""
    full: int = (tokens - sparse.kernel_size) // sparse.kernel_stride + 1
    return max(0, full)


def means(keys: Tensor, sparse: Any) -> Tensor:
    """All full windows: keys [L, G, D] to [n, G, D], averaged in at least fp32."""
    if len(keys) < sparse.kernel_size:
        return keys[:0]
    windows = keys.unfold(0, sparse.kernel_size, sparse.kernel_stride)
    return windows.to(torch.promote_types(keys.dtype, torch.float32)).mean(-1).to(keys.dtype)


def upright(x: Tensor, rope: Any, positions: Any | None = None) -> Tensor:
    """Undo the rotation of x [L, heads, D]; ``positions`` are 0 .. L - 1 if they aren't given."""
    index = torch.arange(len(x)) if positions is None else torch.as_tensor(positions, dtype=torch.long)
    cos, sin = (torch.as_tensor(table)[index].to(x)[:, None] for table in (rope.cos, rope.sin))
    amplitude = cos.square() + sin.square()  # of the pair: LongRoPE and YaRN scale both
    return rotate(x, cos / amplitude, -sin / amplitude)
