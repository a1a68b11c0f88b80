"""semantic_kernels in Triton: one program per window and key/value head, summed in fp32."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from whimbrel.ops.semantic_kernels.reference import count, upright
from whimbrel.ops.triton import needs_tensors, shape_of_tile


def why_not(cache: Any, sparse: Any) -> str | None:
    """Needs a cache that reads keys as tensors, on CUDA or under the interpreter."""
    return needs_tensors(cache)


def run(inputs: Any, cache: Any, layer: int, *, sparse: Any, rope: Any | None = None) -> None:
    """Writes the kernels that end in this step, one sequence after the other."""
    if inputs.tree_masks is not None:
        return
    for sequence, length in enumerate(inputs.kv_lengths.tolist()):
        first, end = inputs.cu_seqlens[sequence : sequence + 2].tolist()
        old, new = (count(tokens, sparse) for tokens in (length - (end - first), length))
        if new > old:
            keys = cache.read(layer, sequence, inputs)[0].detach()
            keys = upright(keys, rope) if sparse.use_nope else keys
            kernels = means(keys[old * sparse.kernel_stride :], sparse)
            cache.write_kernels(layer, sequence, old, kernels, inputs)


def means(keys: Tensor, sparse: Any) -> Tensor:
    """All full windows: keys [L, G, D] to [n, G, D]."""
    keys = keys if keys.stride(-1) == 1 else keys.contiguous()
    windows, (_, groups, dim) = count(len(keys), sparse), keys.shape
    out = torch.empty((windows, groups, dim), dtype=keys.dtype, device=keys.device)
    if windows:
        _means[(windows, groups)](
            keys,
            out,
            *keys.stride()[:2],
            SIZE=sparse.kernel_size,
            SIZE_PAD=triton.next_power_of_2(sparse.kernel_size),
            STRIDE=sparse.kernel_stride,
            D=dim,
            D_PAD=shape_of_tile(1, 1, dim)["D_PAD"],
            num_warps=2,
        )
    return out


@triton.jit
def _means(
    keys_ptr,
    out_ptr,
    stride,
    head_stride,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    STRIDE: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
):
    window, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    n, d = tl.arange(0, SIZE_PAD), tl.arange(0, D_PAD)
    at = (window * STRIDE + n)[:, None] * stride + group * head_stride + d[None, :]
    keys = tl.load(keys_ptr + at, mask=(n < SIZE)[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)
    mean = tl.sum(keys, 0) / SIZE
    to = (window * tl.num_programs(1) + group) * D + d
    tl.store(out_ptr + to, mean.to(out_ptr.dtype.element_ty), mask=d < D)
