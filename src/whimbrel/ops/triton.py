"""What the Triton implementations share: where they run, the phrases that say why they can't serve, shapes of tiles.

A tile's rows are the query heads of one key/value head, for one token or for several neighbours: row ``m`` is head
``m % HEADS_PAD`` of token ``m // HEADS_PAD``. Heads are padded to a power of two and rows to 16, as ``tl.dot`` wants
them; the columns of a head_dim are padded to a power of two. Addresses are 64-bit: 128K tokens of 32 heads need it.

Kernels run compiled on CUDA, or on the CPU under Triton's interpreter (``TRITON_INTERPRET=1``, read when a kernel is
decorated, so before the first import).
"""

from typing import Any

import torch
import triton

BLOCK_SIZE = 64
"""Tokens per block: the N of every tile of attention."""

ROWS = 64
"""Rows of a tile that takes several tokens: the M of Hopper's matrix instructions."""

FEWEST_ROWS = 16
"""Rows that ``tl.dot`` needs at least."""

INTERPRETED = bool(triton.knobs.runtime.interpret)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not_here() -> str | None:
    """None if Triton kernels can run on this machine at all."""
    if INTERPRETED or torch.cuda.is_available():
        return None
    return "there is no CUDA device; set TRITON_INTERPRET=1 to try the kernels on the CPU, slowly"


def needs_device(x: Any) -> str | None:
    """None if ``x`` is a torch tensor of a dtype and on a device that kernels run on, else what was found."""
    if not isinstance(x, torch.Tensor):
        return f"triton works on torch tensors, got {type(x).__module__}.{type(x).__name__}"
    if x.dtype not in DTYPES:
        return f"triton needs fp32, bf16 or fp16, got {x.dtype}"
    if x.is_cuda or (INTERPRETED and x.device.type == "cpu"):
        return None
    return f"triton needs CUDA tensors, or TRITON_INTERPRET=1 for the CPU; got one on {x.device}"


def needs_tensors(cache: Any) -> str | None:
    """None if the cache reads keys as tensors that kernels can reach, else what was found."""
    if cache.pool is not None:
        return "triton needs a cache of torch tensors, this one is native"
    device = getattr(cache, "device", None)
    if device is None or device.type == "cuda" or INTERPRETED:
        return None
    return f"triton needs a cache on CUDA, or TRITON_INTERPRET=1 for the CPU; this one is on {device}"


def needs_kernels(sparse: Any) -> str | None:
    """None if blocks are chosen by semantic kernels, else what was asked."""
    if sparse.estimator == "kernels":
        return None
    return f"triton scores blocks by semantic kernels, not by {sparse.estimator}"


def padded_heads(heads: int) -> int:
    """Rows that the query heads of one key/value head take in a tile."""
    return int(triton.next_power_of_2(heads))


def tokens_per_tile(heads: int, rows: int = ROWS) -> int:
    """Neighbouring tokens in a tile of about ``rows`` rows; at most 16, so that one word has a bit for each."""
    return min(16, max(1, rows // padded_heads(heads)))


def shape_of_tile(heads: int, tokens: int, dim: int) -> dict[str, Any]:
    """The constants of a kernel that works on such tiles."""
    pad = padded_heads(heads)
    return {
        "HEADS": heads,
        "HEADS_PAD": pad,
        "TOKENS": tokens,
        "M": max(FEWEST_ROWS, pad * tokens),
        "D": dim,
        "D_PAD": max(16, int(triton.next_power_of_2(dim))),
    }


def precision(dtype: torch.dtype) -> str:
    """How ``tl.dot`` multiplies: fp32 inputs exactly, and not rounded to TF32."""
    return "ieee" if dtype == torch.float32 else "tf32"


def _repair_interpreter() -> None:
    """Let the interpreter of Triton 3.6 loop to a bound that was loaded.

    It holds scalars as arrays of one element and calls ``int`` on them, which numpy 2.4 refuses.
    """
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


if INTERPRETED:
    _repair_interpreter()
