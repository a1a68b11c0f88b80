"""Where a run computes: the device that a recipe names, and what follows the parameters there."""

import os
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from whimbrel.errors import UnsupportedCapability
from whimbrel.models.config import ModelConfig
from whimbrel.models.rope import rope_table


def training_device(name: str) -> torch.device:
    """The device of a recipe's ``device``. Raises UnsupportedCapability where this machine has no CUDA."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UnsupportedCapability(
            f'device "cuda" was asked for, but torch {torch.__version__} finds no CUDA device here; '
            'train with device "cpu", or on a machine with a GPU and a torch that is built for it'
        )
    return torch.device(name)


def move(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Move tensors in place: whoever holds a parameter holds the one that is trained."""
    for tensor in tensors:
        tensor.data = tensor.data.to(device)


def has_kernels(x: Tensor) -> bool:
    """Whether Triton's kernels run on this tensor; CUDA without triton is refused by its import, not slow."""
    return x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"


class DeviceRope:
    """``models.rope.RopeTable`` as tensors on a device; a batch's positions travel there once for all layers."""

    def __init__(self, config: ModelConfig, length: int, device: torch.device) -> None:
        """For positions 0 .. ``length`` - 1; ``cos`` and ``sin`` are float32 ``[length, head_dim / 2]``."""
        table = rope_table(config, length)
        self.cos, self.sin = (torch.from_numpy(values).to(device) for values in (table.cos, table.sin))
        self._last: tuple[npt.NDArray[np.int32], Tensor] | None = None

    def positions(self, positions: npt.NDArray[np.int32]) -> Tensor:
        """The same as int64 on the device. The array must not be changed afterwards."""
        if self._last is None or self._last[0] is not positions:
            self._last = positions, torch.from_numpy(positions).to(self.cos.device, torch.long)
        return self._last[1]
