"""Block-wise FP8 products: e4m3 codes, one scale per 128x128 block of weights and per 128 inputs of a token.

As MiniCPM4 trains: the forward product and the gradient of the input multiply FP8 operands, the gradient of the weight
multiplies bf16 ones; sums are fp32. A block's scale is its largest magnitude / 448, the largest e4m3 number. Everywhere
but on Hopper the codes are multiplied as fp32 numbers, which they are exactly: the emulation's operands are those of the
hardware bit by bit, only the order of its sums differs. Source: MiniCPM4 technical report; DeepSeek-V3 (2024), 3.3.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 128
LARGEST = 448.0
"""Of torch.float8_e4m3fn."""


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (float8_e4m3fn [T, K]) and scales (fp32 [T, ceil(K / 128)]) of each token's groups of 128."""
    padded = functional.pad(x.float(), (0, -x.shape[1] % BLOCK))
    groups = padded.view(len(x), -1, BLOCK)
    scales = _scales(groups.abs().amax(-1))
    codes = (groups / scales[..., None]).to(torch.float8_e4m3fn)
    return codes.view(len(x), -1)[:, : x.shape[1]], scales


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (float8_e4m3fn [N, K]) and scales (fp32 [ceil(N / 128), ceil(K / 128)]) of blocks of 128x128."""
    n, k = weight.shape
    padded = functional.pad(weight.float(), (0, -k % BLOCK, 0, -n % BLOCK))
    blocks = padded.view(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK)
    scales = _scales(blocks.abs().amax((1, 3)))
    codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    return codes.view(padded.shape)[:n, :k], scales


def dequantize_activations(codes: Tensor, scales: Tensor) -> Tensor:
    """fp32 [T, K]."""
    return codes.float() * scales.repeat_interleave(BLOCK, 1)[:, : codes.shape[1]]


def dequantize_weight(codes: Tensor, scales: Tensor) -> Tensor:
    """fp32 [N, K]."""
    wide = scales.repeat_interleave(BLOCK, 0)[: len(codes)]
    return codes.float() * wide.repeat_interleave(BLOCK, 1)[:, : codes.shape[1]]


def fp8_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x W^T`` with FP8 operands, [T, K] and [N, K] to [T, N]; the dtype is that of ``x``. Differentiable."""
    result: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(quantize_activations(x), quantize_weight(weight)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        codes, scales = quantize_weight(weight)
        of_x = _product(quantize_activations(gradient), (codes.t(), scales.t()))
        of_weight = gradient.bfloat16().float().t() @ x.bfloat16().float()
        return of_x.to(x.dtype), of_weight.to(weight.dtype)


def _product(x: tuple[Tensor, Tensor], weight: tuple[Tensor, Tensor]) -> Tensor:
    """fp32 [T, N] of quantized operands [T, K] and [N, K]."""
    return dequantize_activations(*x) @ dequantize_weight(*weight).t()


def _scales(largest: Tensor) -> Tensor:
    scales = largest / LARGEST
    return torch.where(scales > 0, scales, torch.ones_like(scales))
