"""The loss of the head, a few rows at a time: logits become their gradient where they lie, and are never stored.

A chunk of logits stays in the cache of the processor between its passes, and memory does not grow with tokens times
vocabulary. The gradients are computed with the loss, as in Liger Kernel (Hsu et al. 2024), and scaled when they are asked for.
"""

from typing import Any

import torch
from torch import Tensor

from whimbrel.train.batches import IGNORED

ELEMENTS = 1 << 20
"""Logits of one chunk: 4 MiB."""
ELEMENTS_ON_A_GPU = 1 << 26
"""256 MiB: there a chunk is a handful of launches, so that few of them are wanted. Reasoned, not measured."""


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy in nats of ``hidden W^T`` ([T, K], [V, K]) with targets [T], ``IGNORED`` ones left out."""
    result: Tensor = _HeadLoss.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
    return result


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        with torch.autocast(device, enabled=False):
            rows, w = hidden.to(dtype), weight.to(dtype)
            of_hidden = torch.empty_like(rows) if wanted else None
            of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted else None
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            elements = ELEMENTS if device == "cpu" else ELEMENTS_ON_A_GPU
            step = max(32, elements // len(weight))
            for start in range(0, len(rows), step):
                part, target = rows[start : start + step], targets[start : start + step]
                logits = (part @ w.t()).float()
                known = target != IGNORED
                index = target.clamp_min(0)[:, None]
                logits -= logits.amax(1, keepdim=True)
                shifted = logits.gather(1, index)[:, 0]
                sums = logits.exp_().sum(1)
                total += ((sums.log() - shifted) * known).sum()
                if of_hidden is not None and of_weight is not None:
                    logits *= (known / sums)[:, None]
                    logits.scatter_add_(1, index, -known.to(logits.dtype)[:, None])
                    gradient = logits.to(dtype)
                    torch.mm(gradient, w, out=of_hidden[start : start + step])
                    if dtype == torch.float32:
                        of_weight.addmm_(gradient.t(), part)
                    else:
                        of_weight += gradient.t() @ part
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        of_hidden, of_weight = ctx.saved_tensors
        return (of_hidden * gradient).to(ctx.dtypes[0]), (of_weight * gradient).to(ctx.dtypes[1]), None
