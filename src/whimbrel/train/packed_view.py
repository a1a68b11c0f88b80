"""A cache for whole packed pieces: keys and values stay in one tensor until somebody asks for a piece of them."""

import torch
from torch import Tensor

from whimbrel.attention.dense_view import DenseView
from whimbrel.attention.inputs import AttentionInputs


class PackedView(DenseView):
    """``DenseView`` for one forward pass of whole pieces: hundreds of them need no views of their own on a device."""

    def __init__(self, num_key_value_heads: int, head_dim: int) -> None:
        super().__init__(num_key_value_heads, head_dim)
        self._whole: dict[int, tuple[Tensor, Tensor]] = {}
        self._divided: set[int] = set()

    @property
    def device(self) -> torch.device | None:
        """Where keys and values are; None before anything is written."""
        return next((keys.device for keys, _ in self._whole.values()), None)

    def write(self, layer: int, keys: Tensor, values: Tensor, inputs: AttentionInputs) -> None:
        """Store keys and values ``[T, G, D]`` of all tokens; a layer that runs again replaces them."""
        self._whole[layer] = keys, values
        self._divided.discard(layer)

    def packed(self, layer: int) -> tuple[Tensor, Tensor]:
        """What was written, of all pieces after each other."""
        return self._whole[layer]

    def read(self, layer: int, sequence: int, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
        """Keys and values of one piece."""
        if layer not in self._divided:
            super().write(layer, *self._whole[layer], inputs)
            self._divided.add(layer)
        return super().read(layer, sequence, inputs)
