"""DenseView: a cache of plain torch tensors, for training, the reference ops and tests.

Needs torch. Keys and values keep their gradients and their dtype: a step's tensors are appended, never written in place.
"""

import torch
from torch import Tensor

from whimbrel.attention.inputs import AttentionInputs


class DenseView:
    """Keys and values of a few sequences; sequence ``s`` of every step is the same sequence.

    Implements ``KVView``. Tokens are stored at the positions that ``inputs`` gives them; writing behind the end of what
    is stored forgets the rest first (a roll back). ``block_tables`` are not looked at.
    """

    pool = None
    """no native kernel can read this"""

    def __init__(self, num_key_value_heads: int, head_dim: int) -> None:
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self._stored: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._kernels: dict[tuple[int, int], Tensor] = {}

    @property
    def device(self) -> torch.device | None:
        """Where keys and values are; None before anything is written."""
        return next((keys.device for keys, _ in self._stored.values()), None)

    def write(self, layer: int, keys: Tensor, values: Tensor, inputs: AttentionInputs) -> None:
        """Store keys and values ``[T, G, D]`` of this step's tokens.

        Raises ``ValueError`` if a sequence's tokens don't continue what is stored of it.
        """
        rows = (inputs.cu_seqlens[1:] - inputs.cu_seqlens[:-1]).tolist()
        # The gradient of a split is one concatenation; that of S slices was S tensors of zeros, 15% of a training step.
        parts = zip(keys.split(rows), values.split(rows), strict=True)
        for sequence, (new, length) in enumerate(zip(parts, inputs.kv_lengths.tolist(), strict=True)):
            self._stored[layer, sequence] = self._append(layer, sequence, length - rows[sequence], new)

    def read(self, layer: int, sequence: int, inputs: AttentionInputs) -> tuple[Tensor, Tensor]:
        """Keys and values ``[kv_lengths[sequence], G, D]``."""
        length = int(inputs.kv_lengths[sequence])
        keys, values = self._stored[layer, sequence]
        return keys[:length], values[:length]

    def write_kernels(self, layer: int, sequence: int, first: int, kernels: Tensor, inputs: AttentionInputs) -> None:
        """Store semantic kernels ``[n, G, D]`` from number ``first`` on; what was stored from there on is forgotten."""
        old = self._kernels.get((layer, sequence))
        self._kernels[layer, sequence] = kernels if old is None or first == 0 else torch.cat([old[:first], kernels])

    def read_kernels(self, layer: int, sequence: int, count: int, inputs: AttentionInputs) -> Tensor:
        """Semantic kernels ``[count, G, D]``. Raises ``ValueError`` if fewer are stored."""
        kernels = self._kernels.get((layer, sequence))
        stored = 0 if kernels is None else len(kernels)
        if stored < count:
            raise ValueError(
                f"sequence {sequence} has {stored} semantic kernels in layer {layer}, {count} were asked for"
            )
        if kernels is None:
            return self._stored[layer, sequence][0][:0]
        return kernels[:count]

    def _append(self, layer: int, sequence: int, start: int, new: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        old = self._stored.get((layer, sequence))
        stored = 0 if old is None else old[0].shape[0]
        if start > stored:
            raise ValueError(f"sequence {sequence} has {stored} tokens in layer {layer}, can't write from {start}")
        if old is None or start == 0:
            return new
        return torch.cat([old[0][:start], new[0]]), torch.cat([old[1][:start], new[1]])
