"""A training run: AdamW over a schedule, a loss log, checkpoints from which it goes on exactly as if never stopped.

A step's batch follows from its number alone, so that a resumed run sees what the uninterrupted one would have seen.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from whimbrel.train import checkpoint
from whimbrel.train.parameters import Parameters
from whimbrel.train.schedule import WSD

Losses = dict[str, Tensor]
"""Scalars by name; ``loss`` is the one that is minimised, the others are logged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """How to train, and where the run leaves its files."""

    folder: Path
    """``state.pt`` (checkpoint) and ``log.jsonl`` (one line per logged step)"""
    schedule: WSD
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    """of matrices; norms and biases have none"""
    clip: float = 1.0
    """the largest norm of the gradient"""
    log_every: int = 10
    save_every: int = 100


def train(parameters: Parameters, step_losses: Callable[[int], Losses], run: Run, *, stop: int | None = None) -> None:
    """Change ``parameters`` in place, from where the folder's checkpoint left off up to ``stop`` (default: all steps).

    ``step_losses(step)`` computes the losses of one step; it may depend on nothing but the step and the parameters.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(parameters, run)
    step = _resume(run.folder / "state.pt", parameters, optimizer)
    stop = run.schedule.total if stop is None else min(stop, run.schedule.total)
    while step < stop:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = run.schedule.rate(step)
        losses = step_losses(step)
        losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), run.clip, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()
        if step % run.log_every == 0 or step + 1 == stop:
            _log(run, step, {**losses, "gradient_norm": norm}, time.perf_counter() - started)
        step += 1
        if step % run.save_every == 0 or step == stop:
            checkpoint.save(run.folder / "state.pt", step, parameters, optimizer)


def _optimizer(parameters: Parameters, run: Run) -> torch.optim.Optimizer:
    matrices = [p for p in parameters.values() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in parameters.values() if p.requires_grad and p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": run.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=run.schedule.peak, betas=run.betas)


@torch.no_grad()
def _resume(path: Path, parameters: Parameters, optimizer: torch.optim.Optimizer) -> int:
    progress = checkpoint.load(path)
    if progress is None:
        return 0
    for name, tensor in parameters.items():
        tensor.copy_(progress.parameters[name])
    optimizer.load_state_dict(progress.optimizer)
    return progress.step


def _log(run: Run, step: int, values: Losses, seconds: float) -> None:
    line = {"step": step, "rate": run.schedule.rate(step), "seconds": round(seconds, 3)}
    line |= {name: round(value.item(), 5) for name, value in values.items()}
    with (run.folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
