"""What a run needs to go on after it was stopped: parameters, optimizer state, the next step. One file, written whole."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from whimbrel.errors import FormatError, WriteError

VERSION = 1
LATEST = "state.pt"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """The state of a run between two steps."""

    step: int
    """the step to do next"""
    parameters: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    meta: dict[str, Any] = field(default_factory=dict)
    """what the run wrote beside them: the model's configuration, the recipe, recent losses"""


def save(path: Path, progress: Progress) -> None:
    """Write beside ``path``, then rename: an interruption leaves the previous file, never half of one.

    ``progress.meta`` is plain data (numbers, texts, lists, dicts). Raises WriteError where the disk is full or refuses.
    """
    state = {
        "version": VERSION,
        "step": progress.step,
        "parameters": progress.parameters,
        "optimizer": progress.optimizer,
        "meta": dict(progress.meta),
    }
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer turns some of the former into the latter
        found = error if isinstance(error, OSError) else error.__context__
        number = found.errno if isinstance(found, OSError) else None
        partial.unlink(missing_ok=True)
        if number is None and not isinstance(error, OSError):
            raise
        reason = "the disk is full" if number in _FULL else getattr(found, "strerror", None) or str(error)
        raise WriteError(
            f"{path}: {reason}; the checkpoint before it is intact, and the run goes on from it when there is room"
        ) from None


def keep(path: Path, step: int, last: int | None) -> Path:
    """Give the checkpoint a second name that later ones don't replace; only the ``last`` such names stay (None: all)."""
    kept = path.with_name(f"step-{step:08d}.pt")
    kept.unlink(missing_ok=True)
    os.link(path, kept)  # no copy: ``save`` replaces a name, never a content
    for old in sorted(path.parent.glob("step-*.pt"))[: -last if last else 0]:
        old.unlink()
    return kept


def load(path: Path) -> Progress | None:
    """What ``save`` wrote, or None if there is nothing. Raises ``FormatError`` for damaged files and other versions."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version = state.get("version")
    except Exception as error:  # noqa: BLE001 - the reader has one type for each kind of damage
        raise FormatError(f"{path}: not a training checkpoint, or damaged ({type(error).__name__})") from None
    if version != VERSION:
        raise FormatError(f"{path}: a training checkpoint of version {version}, this build reads {VERSION}")
    return Progress(
        step=state["step"],
        parameters=state["parameters"],
        optimizer=state["optimizer"],
        meta=state.get("meta", {}),
    )


def check(path: Path, progress: Progress, parameters: Mapping[str, torch.Tensor]) -> None:
    """Raise FormatError where a checkpoint is of another architecture; the first difference is named."""
    for name, tensor in parameters.items():
        stored = progress.parameters.get(name)
        if stored is None or stored.shape != tensor.shape:
            found = "is missing" if stored is None else f"has shape {list(stored.shape)}"
            raise FormatError(
                f"{path}: a checkpoint of another architecture: {name} {found}, {list(tensor.shape)} was expected"
            )
    if more := sorted(set(progress.parameters) - set(parameters)):
        raise FormatError(f"{path}: a checkpoint of another architecture: it has {more[0]}, the model has not")


def accept_any(path: Path, progress: Progress) -> None:
    """No check beyond names and shapes."""
