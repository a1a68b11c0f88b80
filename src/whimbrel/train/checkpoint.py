"""What a run needs to go on after it was stopped: parameters, optimizer state, the next step. One file, written whole."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whimbrel.errors import FormatError
from whimbrel.train.parameters import Parameters

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The state of a run between two steps."""

    step: int
    """the step to do next"""
    parameters: dict[str, torch.Tensor]
    optimizer: dict[str, Any]


def save(path: Path, step: int, parameters: Parameters, optimizer: torch.optim.Optimizer) -> None:
    """Write beside ``path``, then rename: an interruption leaves the previous file, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "version": VERSION,
        "step": step,
        "parameters": {name: tensor.detach() for name, tensor in parameters.items()},
        "optimizer": optimizer.state_dict(),
    }
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> Progress | None:
    """What ``save`` wrote, or None if there is nothing yet. Raises ``FormatError`` for a file of another version."""
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("version") != VERSION:
        raise FormatError(
            f"{path}: a training checkpoint of version {state.get('version')}, this build reads {VERSION}"
        )
    return Progress(step=state["step"], parameters=state["parameters"], optimizer=state["optimizer"])
