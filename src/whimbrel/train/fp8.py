"""Block-wise FP8 products: e4m3 codes, one scale per 128x128 block of weights and per 128 inputs of a token.

As MiniCPM4 trains: the forward product and the gradient of the input multiply FP8 operands, the gradient of the weight
multiplies bf16 ones; sums are fp32. A block's scale is its largest magnitude / 448, the largest e4m3 number. Everywhere
but on Hopper the codes are multiplied as fp32 numbers, which they are exactly: the emulation's operands are those of the
hardware bit by bit, only the order of its sums differs. Source: MiniCPM4 technical report; DeepSeek-V3 (2024), 3.3.

On Hopper the products are cuBLASLt's (12.9 or later, through ``torch.nn.functional.scaled_mm``), if a first small one
agrees with the emulation; ``fp8_path`` tells which of the two runs.
"""

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

log = logging.getLogger(__name__)

BLOCK = 128
LARGEST = 448.0
"""Of torch.float8_e4m3fn."""

AGREEMENT = 5e-3
"""Relative to the product: Hopper sums 128 terms in fewer bits than fp32 before it scales them (DeepSeek-V3, 3.3.2: 14);
wrong scales are off by much more."""


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (float8_e4m3fn [T, K]) and scales (fp32 [T, ceil(K / 128)]) of each token's groups of 128."""
    if x.is_cuda:
        from whimbrel.train.fp8_kernels import quantize

        return quantize(x, by_row=True)
    padded = functional.pad(x.float(), (0, -x.shape[1] % BLOCK))
    groups = padded.view(len(x), -1, BLOCK)
    scales = _scales(groups.abs().amax(-1))
    codes = (groups / scales[..., None]).to(torch.float8_e4m3fn)
    return codes.view(len(x), -1)[:, : x.shape[1]], scales


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (float8_e4m3fn [N, K]) and scales (fp32 [ceil(N / 128), ceil(K / 128)]) of blocks of 128x128."""
    if weight.is_cuda:
        from whimbrel.train.fp8_kernels import quantize

        return quantize(weight, by_row=False)
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
        of_weight = _bf16_product(gradient.t(), x)
        return of_x.to(x.dtype), of_weight.to(weight.dtype)


def fp8_path(device: torch.device) -> str:
    """``hopper`` or ``emulated``: how products are computed on a device. The reason is logged once for each device."""
    return _path(device.type, device.index)


@cache
def _path(kind: str, index: int | None) -> str:
    device = torch.device(kind, index) if index is not None else torch.device(kind)
    if kind != "cuda":
        log.info("fp8 on %s: emulated", device)
        return "emulated"
    reason = why_not_hopper(device)
    if reason is None:
        log.info("fp8 on %s: block-wise products of the tensor cores", device)
        return "hopper"
    log.warning("fp8 on %s: emulated, which is slow, since %s", device, reason)
    return "emulated"


def why_not_hopper(device: torch.device) -> str | None:
    """What keeps block-wise products from a CUDA device, or None; tries a small one of each kind."""
    capability = torch.cuda.get_device_capability(device)
    if capability[0] != 9:
        return f"it has compute capability {capability[0]}.{capability[1]}, and block-wise scales need 9.0"
    if not hasattr(functional, "scaled_mm"):
        return f"torch {torch.__version__} has no torch.nn.functional.scaled_mm (2.10 or later has)"
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 300, generator=generator).to(device) for n in (50, 200))
    try:
        operands = quantize_activations(x), quantize_weight(weight)
        pairs = [
            (_hopper(*operands), _emulated(*operands)),
            (
                torch.mm(x.bfloat16(), weight.bfloat16().t(), out_dtype=torch.float32),
                _rounded(x) @ _rounded(weight).t(),
            ),
        ]
    except (RuntimeError, ValueError, TypeError) as error:
        return f"torch refuses ({type(error).__name__}: {str(error).splitlines()[0]})"
    errors = [((found - wanted).norm() / wanted.norm()).item() for found, wanted in pairs]
    return None if max(errors) < AGREEMENT else f"a first product differs from the emulation by {max(errors):.2g}"


def _product(x: tuple[Tensor, Tensor], weight: tuple[Tensor, Tensor]) -> Tensor:
    """fp32 [T, N] of quantized operands [T, K] and [N, K]."""
    return _hopper(x, weight) if fp8_path(x[0].device) == "hopper" else _emulated(x, weight)


def _emulated(x: tuple[Tensor, Tensor], weight: tuple[Tensor, Tensor]) -> Tensor:
    return dequantize_activations(*x) @ dequantize_weight(*weight).t()


def _hopper(x: tuple[Tensor, Tensor], weight: tuple[Tensor, Tensor]) -> Tensor:
    rows, outputs = len(x[0]), len(weight[0])
    a, scale_a, b, scale_b = scaled_operands(x, weight)
    kinds = functional.ScalingType.BlockWise1x128, functional.ScalingType.BlockWise128x128
    out: Tensor = functional.scaled_mm(a, b, scale_a, kinds[0], scale_b, kinds[1], output_dtype=torch.float32)
    return out[:rows, :outputs]


def scaled_operands(x: tuple[Tensor, Tensor], weight: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Operands as cuBLASLt wants them: M rows a multiple of 16, K and N multiples of 128, padded with zeros.

    [M, K] by rows, its scales [M, K / 128] by columns; [K, N] by columns, its scales [L, N / 128] by columns, where L is
    K / 128 rounded up to a multiple of 4.
    """
    codes, scales = x
    a = _padded(codes, -len(codes) % 16, -codes.shape[1] % BLOCK)
    scale_a = functional.pad(scales, (0, 0, 0, len(a) - len(codes)), value=1.0).t().contiguous().t()
    codes, scales = weight
    b = _padded(codes, -len(codes) % BLOCK, -codes.shape[1] % BLOCK).t()
    scale_b = functional.pad(scales, (0, -scales.shape[1] % 4)).contiguous().t()
    return a, scale_a, b, scale_b


def _padded(codes: Tensor, rows: int, columns: int) -> Tensor:
    """By rows, with zeros below and to the right; as bytes, since not every op knows FP8."""
    return functional.pad(codes.view(torch.uint8), (0, columns, 0, rows)).contiguous().view(codes.dtype)


def _bf16_product(a: Tensor, b: Tensor) -> Tensor:
    """fp32 sums of bf16 operands [M, K] and [K, N]."""
    if fp8_path(a.device) == "hopper":
        return torch.mm(a.bfloat16(), b.bfloat16(), out_dtype=torch.float32)
    return _rounded(a) @ _rounded(b)


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def _scales(largest: Tensor) -> Tensor:
    scales = largest / LARGEST
    return torch.where(scales > 0, scales, torch.ones_like(scales))
