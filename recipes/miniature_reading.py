"""What the miniature's measurements share: a trained model that reads pieces, where the run computes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from whimbrel.models.config import ModelConfig
from whimbrel.train import network
from whimbrel.train.batches import IGNORED, Batch, Batches
from whimbrel.train.device import DeviceRope, training_device
from whimbrel.train.mtp import mtp_hidden_states
from whimbrel.train.ops import training_ops


class Reading:
    """Parameters, with or without an MTP head, over pieces of up to ``sequence`` tokens; no gradients."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], sequence: int, device: str) -> None:
        self.config, self.sequence = config, sequence
        place = training_device(device)
        self.tensors = {name: tensor.to(place) for name, tensor in tensors.items()}
        self.ops, self.rope = training_ops(), DeviceRope(config, sequence, place)

    def hidden(self, batch: Batch) -> Tensor:
        """``[T, hidden_size]``."""
        with torch.no_grad():
            return network.packed_hidden_states(self.config, self.tensors, self.ops, self.rope, batch)

    def drafts(self, batch: Batch, hidden: Tensor) -> Tensor:
        """The MTP head's ``[T, hidden_size]``."""
        with torch.no_grad():
            return mtp_hidden_states(self.config, self.tensors, self.ops, self.rope, batch, hidden)

    def choices(self, hidden: Tensor) -> np.ndarray:
        """The likeliest token behind each row."""
        with torch.no_grad():
            return network.scores(self.config, self.tensors, self.ops, hidden).argmax(-1).cpu().numpy()

    def loss(self, batch: Batch, hidden: Tensor, counted: np.ndarray) -> float:
        """Summed nats of the rows that ``counted`` [T] says."""
        targets = torch.from_numpy(np.where(counted, batch.targets, IGNORED)).to(hidden.device)
        with torch.no_grad():
            return network.summed_loss(self.config, self.tensors, hidden, targets).item()

    def rows(self, shard: Path) -> Iterator[Batch]:
        """Every row of a shard, packed, one at a time."""
        batches = Batches(shard, sequence=self.sequence, rows=1)
        return (batches.batch(step) for step in range(batches.row_count))

    def windows(self, shard: Path) -> Iterator[Batch]:
        """Those that are one piece of full length."""
        return (batch for batch in self.rows(shard) if batch.cu_seqlens.tolist() == [0, self.sequence])
