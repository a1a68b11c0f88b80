"""KVLayout: where the blocks of a ``.kv`` file and their semantic kernels lie, in bytes.

A block is one piece of ``block_bytes``, in the order of the engine's pool (native/kernels.h, ``KVPool``). The kernels
of all blocks lie apart, as the pool keeps them (``KernelExtent``): four blocks make a group, so that 16 kernels are one
operand of a dot product. R rows are layers x key/value heads, row-major; K is the kernels' dimension, a multiple of 4.

| part   | as the file and the pool have it  | of one block      |
|--------|-----------------------------------|-------------------|
| codes  | uint8 [R, groups, K/4, 4, 16]     | uint8 [R, K/4, 16]|
| scales | float32 [R, groups, 4, 4]         | float32 [R, 4]    |

The fourth (third) axis is the block within its group; 16 bytes are 4 kernels x 4 dimensions.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

GROUP = 4
"""Blocks whose kernels lie together."""
KERNELS = 4
"""Semantic kernels of a block."""

Bytes = npt.NDArray[np.uint8]
Scales = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class KVLayout:
    """Sizes of the data of ``num_blocks`` blocks."""

    num_blocks: int
    block_bytes: int
    kernel_rows: int = 0
    """R; 0 where no semantic kernels are kept"""
    kernel_dim: int = 0
    """K"""

    @property
    def num_groups(self) -> int:
        """Groups of four blocks, the last one perhaps not full."""
        return -(-self.num_blocks // GROUP)

    @property
    def row_codes(self) -> int:
        """Bytes of one row of one group of codes."""
        return self.kernel_dim * GROUP * KERNELS

    @property
    def row_scales(self) -> int:
        """Bytes of one row of one group of scales."""
        return 4 * GROUP * KERNELS

    @property
    def code_bytes(self) -> int:
        """Bytes of all codes."""
        return self.kernel_rows * self.num_groups * self.row_codes

    @property
    def scale_bytes(self) -> int:
        """Bytes of all scales."""
        return self.kernel_rows * self.num_groups * self.row_scales if self.kernel_dim else 0

    @property
    def data_bytes(self) -> int:
        """Bytes of all blocks."""
        return self.num_blocks * self.block_bytes

    def codes_view(self, codes: Bytes) -> Bytes:
        """``uint8 [code_bytes]`` as [R, groups, K/4, 4, 16]."""
        return codes.reshape(self.kernel_rows, self.num_groups, self.kernel_dim // 4, GROUP, 4 * KERNELS)

    def scales_view(self, scales: Bytes) -> Scales:
        """``uint8 [scale_bytes]`` as float32 [R, groups, 4, 4]."""
        return scales.view(np.float32).reshape(self.kernel_rows, self.num_groups, GROUP, KERNELS)

    def kernels_of(self, codes: Bytes, scales: Bytes, block: int) -> tuple[Bytes, Scales]:
        """Codes [R, K/4, 16] and scales [R, 4] of one block, as views of the parts ``uint8 [code_bytes]``, ``[scale_bytes]``."""
        group, slot = divmod(block, GROUP)
        if not self.kernel_dim:
            return np.empty((0, 0, 16), np.uint8), np.empty((0, KERNELS), np.float32)
        return self.codes_view(codes)[:, group, :, slot], self.scales_view(scales)[:, group, slot]
