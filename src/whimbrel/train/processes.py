"""What a step does differently where several processes train one model; here is the one process."""

from collections.abc import Iterable

import torch
from torch import Tensor

from whimbrel.train.checkpoint import Progress
from whimbrel.train.parameters import Parameters

Losses = dict[str, Tensor]
"""Scalars by name; ``loss`` is the one that is minimised, the others are logged."""


class OneProcess:
    """Gradients, their norm and a run's state, where all of it is in one place. ``train.distributed`` has the other."""

    writes = True
    """whether this process writes log and checkpoints"""

    def backward(self, parts: Losses | Iterable[Losses]) -> dict[str, float]:
        """Gradients of all parts, and the sums of their values; a device is waited for once, behind the last part."""
        names, values = backward(parts)
        sums: dict[str, float] = {}
        for name, value in zip(names, torch.stack(values).tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value
        return sums

    def clip(self, parameters: Parameters, limit: float) -> float:
        """Scale the gradient down to a norm of at most ``limit``; returns the norm that it had."""
        return float(torch.nn.utils.clip_grad_norm_(parameters.values(), limit).item())

    def state(self, parameters: Parameters, optimizer: torch.optim.Optimizer) -> Progress:
        """Whole tensors, as a checkpoint has them (step and meta are the loop's)."""
        whole = {name: tensor.detach() for name, tensor in parameters.items()}
        return Progress(step=0, parameters=whole, optimizer=optimizer.state_dict())

    @torch.no_grad()
    def restore(self, parameters: Parameters, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """The reverse. Raises ValueError where the optimizer has other groups."""
        for name, tensor in parameters.items():
            tensor.copy_(progress.parameters[name])
        optimizer.load_state_dict(progress.optimizer)


def backward(parts: Losses | Iterable[Losses], factor: float = 1.0) -> tuple[list[str], list[Tensor]]:
    """Gradients of ``factor`` times all parts; names and values of their losses, which may still be computed."""
    names: list[str] = []
    values: list[Tensor] = []
    for losses in [parts] if isinstance(parts, dict) else parts:
        (losses["loss"] if factor == 1.0 else factor * losses["loss"]).backward()
        names += losses
        values += [value.detach() for value in losses.values()]
    return names, values
