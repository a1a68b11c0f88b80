"""semantic_kernels: averages of neighbouring keys, by which blocks are chosen.

    C[i] = mean(K[s i : s i + l])       l = kernel_size (32), s = kernel_stride (16); full windows only

For: keeping the kernels of a sequence up to date: in bulk when a prompt is read, one every 16 tokens in decoding.
In: ``inputs``; ``cache``, a KVView that already holds this step's keys; ``sparse`` with kernel_size, kernel_stride,
use_nope; ``rope``, needed where ``use_nope`` asks for keys before their rotation (they are turned back).
Out: in the cache, the kernels that *end* among this step's tokens; others stay as they are. After L tokens a sequence
has ``max(0, (L - 32) // 16 + 1)`` of them. Nothing is returned. A step with ``tree_masks`` changes nothing: its tokens
are drafts until they are accepted.
May not: change a kernel's bits with chunking. Kernels are stored with the block that they end in, native in 8 bits.
Accumulation: fp32 (native), the dtype of the keys but at least fp32 (reference). Not differentiable: selection carries
no gradient.
Source: InfLLM-V2 (2025), section 3.2.
"""

from typing import Any

from whimbrel.ops.dispatch import Op

OP = Op.of(__name__)


def semantic_kernels(
    inputs: Any, cache: Any, layer: int, *, sparse: Any, rope: Any | None = None, impl: str = "auto"
) -> None:
    """Extend the cache's semantic kernels by this step; the module's docstring is the specification."""
    OP.choose(impl, cache, sparse)(inputs, cache, layer, sparse=sparse, rope=rope)
