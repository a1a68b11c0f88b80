"""Quantizing to FP8 in one pass, by Triton: torch's ops take six, and then cost more than the products save.

The codes and scales are those of ``fp8.quantize_activations`` and ``fp8.quantize_weight`` bit by bit: divisions are rounded as
IEEE 754 says. On CUDA only: the interpreter of Triton 3.6 rounds 126 to 64 where e4m3 has 128.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
LARGEST = tl.constexpr(448.0)
ROWS = 32
"""Of a program that has a scale for each row: 16 KB of fp32."""


def quantize(x: Tensor, *, by_row: bool) -> tuple[Tensor, Tensor]:
    """Codes (float8_e4m3fn [M, K]) and scales of 128 columns: fp32 [M, K / 128] of each row, or [M / 128, K / 128] of 128 rows."""
    x = x if x.stride(1) == 1 else x.contiguous()
    (rows, columns), height = x.shape, 1 if by_row else BLOCK
    codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(triton.cdiv(rows, height), triton.cdiv(columns, BLOCK), device=x.device)
    tile = ROWS if by_row else BLOCK
    grid = triton.cdiv(rows, tile), scales.shape[1]
    _quantize[grid](
        x, codes, scales, rows, columns, x.stride(0), scales.shape[1],
        ROWS=tile, COLUMNS=BLOCK, BY_ROW=by_row, num_warps=4 if by_row else 8,
    )  # fmt: skip
    return codes, scales


@triton.jit
def _quantize(
    x_ptr, codes_ptr, scales_ptr, rows, columns, stride, scale_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BY_ROW: tl.constexpr,
):  # fmt: skip
    """A tile of ROWS x COLUMNS, with a scale for each of its rows or one for all."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    x = tl.load(x_ptr + row[:, None] * stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(x), axis=1)
    if not BY_ROW:
        largest = tl.zeros_like(largest) + tl.max(largest, axis=0)
    scale = tl.div_rn(largest, tl.zeros_like(largest) + LARGEST)
    scale = tl.where(scale > 0, scale, 1.0)
    codes = tl.div_rn(x, tl.broadcast_to(scale[:, None], (ROWS, COLUMNS))).to(tl.float8e4nv)
    tl.store(codes_ptr + row[:, None] * columns + column[None, :], codes, mask=inside)
    if BY_ROW:
        tl.store(scales_ptr + row * scale_stride + tl.program_id(1), scale, mask=row < rows)
    else:
        tl.store(scales_ptr + tl.program_id(0) * scale_stride + tl.program_id(1), tl.max(scale, axis=0))
