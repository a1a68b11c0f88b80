"""A training run: AdamW over a schedule, a loss log, checkpoints from which it goes on exactly as if never stopped.

A step's batch follows from its number alone, so that a resumed run sees what the uninterrupted one would have seen.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from whimbrel.errors import FormatError, InvalidParameter, TrainingDiverged
from whimbrel.train import checkpoint
from whimbrel.train.parameters import Parameters
from whimbrel.train.processes import Losses, OneProcess
from whimbrel.train.schedule import Schedule
from whimbrel.train.spikes import SpikeRule, Spikes

log = logging.getLogger(__name__)

StepLosses = Callable[[int], Losses | Iterable[Losses]]
"""The losses of one step, or of its parts, one at a time; parts are added up, gradients and logged values alike."""

Line = Mapping[str, Any]
"""A line of the log: ``step``, ``rate``, ``seconds``, the losses, ``gradient_norm``, and ``skipped`` with the reason."""

Watcher = Callable[[Line], bool | None]
"""Called with each logged line; True ends the run there, with a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """How to train, and where the run leaves its files."""

    folder: Path
    """``state.pt`` (checkpoint), ``step-*.pt`` (those that are kept) and ``log.jsonl`` (one line per logged step)"""
    schedule: Schedule
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    """of matrices; norms and biases have none. Without effect where ``groups`` are given"""
    groups: Sequence[dict[str, Any]] | None = None
    """AdamW's parameter groups, each with a ``rate_scale`` that multiplies the schedule's rate"""
    clip: float = 1.0
    """the largest norm of the gradient"""
    log_every: int = 10
    save_every: int = 100
    keep_every: int | None = None
    """a checkpoint whose step is a multiple of it gets a name of its own; so does the end of WSD's stable part"""
    keep_last: int | None = None
    """how many of those stay; None: all"""
    start: Path | None = None
    """a checkpoint to begin with, step number and optimizer included, where the folder has none of its own"""
    spikes: SpikeRule = field(default_factory=SpikeRule)
    meta: Mapping[str, Any] = field(default_factory=dict)
    """plain data that is stored in every checkpoint"""
    accept: Callable[[Path, checkpoint.Progress], None] = checkpoint.accept_any
    """called with a checkpoint before it is used; raises where it belongs to another run"""
    watchers: Sequence[Watcher] = ()


def train(
    parameters: Parameters,
    step_losses: StepLosses,
    run: Run,
    *,
    stop: int | None = None,
    processes: OneProcess | None = None,
) -> int:
    """Change ``parameters`` in place, from where the folder's checkpoint left off up to ``stop`` (default: all steps).

    ``step_losses(step)`` computes the losses of one step; it may depend on nothing but the step and the parameters.
    ``processes`` says how several of them do this together. Returns the next step. Raises TrainingDiverged, WriteError,
    FormatError, InvalidParameter (``start`` lies behind the schedule's end).
    """
    processes = processes or OneProcess()
    run.folder.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(parameters, run)
    step, spikes, begun = _resume(run, parameters, optimizer, processes)
    if processes.writes:
        _begin_log(run.folder / "log.jsonl", step)
    stop = run.schedule.total if stop is None else min(stop, run.schedule.total)
    ended = False
    if step >= stop and not begun:  # nothing is left to do after ``start``; the run's checkpoint is that one
        _save(run, step, parameters, optimizer, spikes, processes)
    while step < stop and not ended:
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = run.schedule.rate(step) * group["rate_scale"]
        values = processes.backward(step_losses(step))
        values["gradient_norm"] = processes.clip(parameters, run.clip)
        skipped = spikes.why_skip(values["loss"], values["gradient_norm"])
        if skipped is None:
            optimizer.step()
        optimizer.zero_grad()
        step += 1
        if (step - 1) % run.log_every == 0 or step == stop or skipped:
            line = _line(run, step - 1, values, time.perf_counter() - started, skipped, processes.writes)
            answers = [watcher(line) for watcher in run.watchers]  # all of them, whatever the first says
            ended = any(answers)
        if step % run.save_every == 0 or step == stop or ended or _kept(run, step):
            _save(run, step, parameters, optimizer, spikes, processes)
        if spikes.in_a_row >= run.spikes.patience:
            raise TrainingDiverged(
                f"step {step - 1}: {spikes.in_a_row} batches in a row were skipped, the last because {skipped}; "
                f"lower the learning rate ({run.schedule.peak:g}) or look at the data"
            )
    return step


def _optimizer(parameters: Parameters, run: Run) -> torch.optim.Optimizer:
    groups = run.groups
    if groups is None:
        matrices = [p for p in parameters.values() if p.requires_grad and p.ndim > 1]
        vectors = [p for p in parameters.values() if p.requires_grad and p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": run.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    chosen = [{"rate_scale": 1.0, **group} for group in groups if group["params"]]
    return torch.optim.AdamW(chosen, lr=run.schedule.peak, betas=run.betas, eps=run.eps, fused=True)


def _resume(
    run: Run, parameters: Parameters, optimizer: torch.optim.Optimizer, processes: OneProcess
) -> tuple[int, Spikes, bool]:
    """The next step, and whether the folder has a checkpoint of its own."""
    path = run.folder / checkpoint.LATEST
    progress = checkpoint.load(path)
    begun = progress is not None
    if progress is None and run.start is not None:
        path = run.start
        progress = checkpoint.load(path)
        if progress is None:
            raise FormatError(f"{path}: there is no such checkpoint to start from")
        if progress.step > run.schedule.total:
            raise InvalidParameter(
                f"start {path} is at step {progress.step}, behind the schedule's end, total {run.schedule.total}; "
                f"set total to {progress.step} or more (it counts from the first step of all), or start earlier"
            )
    if progress is None:
        return 0, Spikes(run.spikes), begun
    checkpoint.check(path, progress, parameters)
    run.accept(path, progress)
    asked = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    try:
        processes.restore(parameters, optimizer, progress)
    except ValueError as error:
        raise FormatError(f"{path}: its optimizer has other parameter groups than this run: {error}") from None
    for group, options in zip(optimizer.param_groups, asked, strict=True):
        group.update(options)  # the stored ones are those of the run before
    recent = progress.meta.get("spikes", {})
    return progress.step, Spikes(run.spikes, recent.get("losses"), recent.get("in_a_row", 0)), begun


def _kept(run: Run, step: int) -> bool:
    stable_end = getattr(run.schedule, "stable_end", None)
    return step == stable_end or (run.keep_every is not None and step % run.keep_every == 0)


def _save(
    run: Run,
    step: int,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    spikes: Spikes,
    processes: OneProcess,
) -> None:
    meta = {**run.meta, "spikes": {"losses": list(spikes.losses), "in_a_row": spikes.in_a_row}}
    path = run.folder / checkpoint.LATEST
    whole = processes.state(parameters, optimizer)  # all processes take part in gathering
    if not processes.writes:
        return
    checkpoint.save(path, replace(whole, step=step, meta=meta))
    if _kept(run, step):
        checkpoint.keep(path, step, run.keep_last)


def _begin_log(path: Path, step: int) -> None:
    """An empty log, or the old one without the steps that are done again: lines behind the checkpoint, the last perhaps half."""
    path.touch()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] < step and line.endswith("\n"):
                kept.append(line)
        except ValueError:
            continue
    if len(kept) < len(lines):
        partial = path.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)


def _line(run: Run, step: int, values: Mapping[str, float], seconds: float, skipped: str | None, writes: bool) -> Line:
    line: dict[str, Any] = {"step": step, "rate": run.schedule.rate(step), "seconds": round(seconds, 3)}
    line |= {name: round(value, 5) for name, value in values.items()}
    if skipped:
        line["skipped"] = skipped
        log.warning("step %d: batch skipped: %s", step, skipped)
    if not writes:
        return line
    with (run.folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line
