"""The memory behind the blocks: ``_native.KVPool`` for the kernels, a numpy array for the reference ops.

L layers, B blocks, G key/value heads, D head_dim. Keys and values of one block lie together.
"""

from importlib import import_module
from typing import Any, Protocol

import numpy as np

from whimbrel.attention.inputs import BLOCK_SIZE, AttentionInputs
from whimbrel.errors import InvalidParameter, UnsupportedCapability

KV_DTYPES = ("bf16", "q8", "f32")
"""How keys and values are stored: bf16, 8-bit integers with a scale per head and token, or (reference only) fp32."""

KERNELS = 4
"""Semantic kernels that end in a block: 16 tokens apart."""

KERNEL_BLOCKS = 4
"""Blocks whose kernels the native pool keeps together, as ``native/kernels.h`` has it."""


class Store(Protocol):
    """Keys and values of all blocks."""

    num_key_value_heads: int
    head_dim: int
    group: int
    """blocks whose semantic kernels lie together; 1 where there are none"""

    @property
    def pool(self) -> Any:
        """``_native.KVPool``, or None."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Copy one block, all layers."""
        ...

    def write(self, layer: int, keys: Any, values: Any, inputs: AttentionInputs) -> None:
        """See ``attention.KVView``."""
        ...

    def read(self, layer: int, sequence: int, inputs: AttentionInputs) -> tuple[Any, Any]:
        """See ``attention.KVView``."""
        ...

    def write_kernels(self, layer: int, sequence: int, first: int, kernels: Any, inputs: AttentionInputs) -> None:
        """See ``attention.KVView``."""
        ...

    def read_kernels(self, layer: int, sequence: int, count: int, inputs: AttentionInputs) -> Any:
        """See ``attention.KVView``."""
        ...


class ArrayStore:
    """A numpy array [B, L, 2, 64, G, D] in fp32, rounded to bf16 where that is asked. For tests and the reference.

    Semantic kernels lie beside it, [B, L, 4, G, D]: with the block that they end in, kernel i in slot i + 1.
    """

    def __init__(
        self, num_blocks: int, layers: int, groups: int, head_dim: int, kv_dtype: str, *, kernels: bool = False
    ) -> None:
        """``kernels``: keep semantic kernels too. Raises ``UnsupportedCapability`` for ``q8``."""
        if kv_dtype == "q8":
            raise UnsupportedCapability("kv_dtype='q8' needs the native ops; the reference stores 'bf16' or 'f32'")
        self.num_key_value_heads = groups
        self.head_dim = head_dim
        self.group = KERNEL_BLOCKS if kernels else 1
        self.pool = None
        self._rounds = kv_dtype == "bf16"
        self._data = np.full((num_blocks, layers, 2, BLOCK_SIZE, groups, head_dim), np.nan, np.float32)
        self._kernels = np.full((num_blocks * kernels, layers, KERNELS, groups, head_dim), np.nan, np.float32)
        self._like: Any = None

    def copy(self, source: int, target: int) -> None:
        """Copy one block, all layers."""
        self._data[target] = self._data[source]
        if len(self._kernels):
            self._kernels[target] = self._kernels[source]

    def write(self, layer: int, keys: Any, values: Any, inputs: AttentionInputs) -> None:
        """Store keys and values [T, G, D], numpy or torch."""
        self._like = None if isinstance(keys, np.ndarray) else keys
        rows = np.diff(inputs.cu_seqlens)
        tables = inputs.block_tables[np.repeat(np.arange(len(rows)), rows)]
        blocks = np.take_along_axis(tables, (inputs.positions // BLOCK_SIZE)[:, None], axis=1)[:, 0]
        assert (blocks >= 0).all(), "a token has no block"
        offsets = inputs.positions % BLOCK_SIZE
        for which, part in enumerate((keys, values)):
            array = to_numpy(part).astype(np.float32)
            self._data[blocks, layer, which, offsets] = round_to_bf16(array) if self._rounds else array

    def read(self, layer: int, sequence: int, inputs: AttentionInputs) -> tuple[Any, Any]:
        """Keys and values [kv_lengths[sequence], G, D], of the kind (numpy or torch) that was written."""
        length = int(inputs.kv_lengths[sequence])
        blocks = inputs.block_tables[sequence, : -(-length // BLOCK_SIZE)]
        both = self._data[blocks, layer].swapaxes(0, 1)
        keys, values = both.reshape(2, -1, self.num_key_value_heads, self.head_dim)[:, :length]
        if self._like is None:
            return keys, values
        return self._like.new_tensor(keys), self._like.new_tensor(values)

    def write_kernels(self, layer: int, sequence: int, first: int, kernels: Any, inputs: AttentionInputs) -> None:
        """Store semantic kernels [n, G, D] from number ``first`` on."""
        slots = np.arange(first + 1, first + 1 + len(kernels))
        blocks = inputs.block_tables[sequence, slots // KERNELS]
        self._kernels[blocks, layer, slots % KERNELS] = to_numpy(kernels)

    def read_kernels(self, layer: int, sequence: int, count: int, inputs: AttentionInputs) -> Any:
        """Semantic kernels [count, G, D]."""
        blocks = inputs.block_tables[sequence, : -(-(count + 1) // KERNELS)]
        kernels = self._kernels[blocks, layer].reshape(-1, self.num_key_value_heads, self.head_dim)[1 : count + 1]
        return kernels if self._like is None else self._like.new_tensor(kernels)


class NativeStore:
    """``_native.KVPool``: the kernels write and read it themselves."""

    def __init__(
        self, num_blocks: int, layers: int, groups: int, head_dim: int, kv_dtype: str, *, kernels: bool = False
    ) -> None:
        """``kernels``: keep semantic kernels too. Raises ``UnsupportedCapability`` for ``f32``."""
        if kv_dtype == "f32":
            raise UnsupportedCapability("kv_dtype='f32' is the reference's; the native ops store 'bf16' or 'q8'")
        self.num_key_value_heads = groups
        self.head_dim = head_dim
        self.group = KERNEL_BLOCKS if kernels else 1
        native = import_module("whimbrel._native")
        self.pool = native.KVPool(num_blocks, layers, groups, head_dim, kv_dtype, kernels)

    def copy(self, source: int, target: int) -> None:
        """Copy one block, all layers."""
        self.pool.copy_block(source, target)

    def write(self, layer: int, keys: Any, values: Any, inputs: AttentionInputs) -> None:
        """The kernels write; nothing else does."""
        raise NotImplementedError("rotary_write writes the native pool itself")

    def read(self, layer: int, sequence: int, inputs: AttentionInputs) -> tuple[Any, Any]:
        """The kernels read; nothing else does."""
        raise NotImplementedError("attend reads the native pool itself")

    def write_kernels(self, layer: int, sequence: int, first: int, kernels: Any, inputs: AttentionInputs) -> None:
        """The kernels write; nothing else does."""
        raise NotImplementedError("semantic_kernels writes the native pool itself")

    def read_kernels(self, layer: int, sequence: int, count: int, inputs: AttentionInputs) -> Any:
        """The kernels read; nothing else does."""
        raise NotImplementedError("select_blocks reads the native pool itself")


def check_kv_dtype(kv_dtype: str) -> None:
    """Raises ``InvalidParameter`` for an unknown one."""
    if kv_dtype not in KV_DTYPES:
        raise InvalidParameter(f"kv_dtype={kv_dtype!r} is unknown; there are {', '.join(KV_DTYPES)}")


def bytes_per_block(layers: int, groups: int, head_dim: int, kv_dtype: str, *, kernels: bool = False) -> int:
    """Bytes of one block of 64 tokens, keys and values of all layers, with its semantic kernels if it has them.

    Kernels are 8 bits and a scale each, head_dim rounded up to 64: 1/32 of the keys and values in bf16, 1/17 in q8.
    """
    check_kv_dtype(kv_dtype)
    per_vector = {"f32": 4 * head_dim, "bf16": 2 * head_dim, "q8": head_dim + 4}[kv_dtype]
    per_kernel = -(-head_dim // 64) * 64 + 4 if kernels else 0
    return layers * groups * (BLOCK_SIZE * 2 * per_vector + KERNELS * per_kernel)


def to_numpy(array: Any) -> Any:
    """A numpy array of a numpy array or torch tensor, gradients left behind."""
    if isinstance(array, np.ndarray):
        return array
    return array.detach().cpu().numpy()


def round_to_bf16(array: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """fp32 rounded to the nearest bf16, ties to even, still as fp32."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
