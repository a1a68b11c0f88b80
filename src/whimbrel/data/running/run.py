"""A whole run: claim the folder, filter, find copies, write, report. Runners only decide where tasks are executed."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from whimbrel.data.duplicates import copies
from whimbrel.data.running.plan import Plan, write_whole
from whimbrel.data.running.tally import Tally
from whimbrel.data.running.task import filter_task, write_task
from whimbrel.errors import InvalidParameter, WriteError

Task = Callable[..., Tally]
OnProgress = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """How far a run is. Files weigh what they take on the disk; ``seconds_left`` is None until one is done."""

    stage: str
    documents: int
    documents_per_second: float
    files: int
    all_files: int
    seconds_left: float | None


class Runner(Protocol):
    """Executes tasks; the order of the results is the order of ``arguments``."""

    def map(
        self, task: Task, plan: Plan, arguments: Sequence[tuple[Any, ...]], on_done: Callable[[int, int], None]
    ) -> list[Tally]:
        """``task(plan, *arguments[i])`` for all i. ``on_done(i, documents)``: i is -1 while a task is under way."""


def run(plan: Plan, runner: Runner, on_progress: OnProgress = lambda progress: None) -> Tally:
    """Do what the plan says, or what is left of it. The report is in ``output/report.json``; its tally is returned.

    Raises UsageError when the folder holds another run, WriteError, FormatError (strict plans), WhimbrelError when a worker died.
    """
    if not plan.inputs:
        raise InvalidParameter("inputs is empty: a run needs at least one file")
    plan.begin()
    began = time.monotonic()
    first = _stage(plan, runner, "filter", filter_task, [(index,) for index in range(len(plan.inputs))], on_progress)
    total = _sum(first)
    if plan.dedup:
        signatures = [np.load(plan.work / f"{index:05d}.npy") for index in range(len(plan.inputs))]
        arguments = list(enumerate(copies(signatures)))
        second = _sum(_stage(plan, runner, "write", write_task, arguments, on_progress))
        total.kept = total.kept_characters = 0
        total.add(second)
    _report(plan, total, time.monotonic() - began)
    return total


def _stage(
    plan: Plan, runner: Runner, name: str, task: Task, arguments: Sequence[tuple[Any, ...]], on_progress: OnProgress
) -> list[Tally]:
    began = time.monotonic()
    sizes = [max(entry.size, 1) for entry in plan.inputs]
    state = {"documents": 0, "files": 0, "bytes": 0}

    def on_done(index: int, documents: int) -> None:
        state["documents"] += documents
        if index >= 0:
            state["files"] += 1
            state["bytes"] += sizes[index]
        seconds = time.monotonic() - began
        left = seconds * (sum(sizes) / state["bytes"] - 1) if state["bytes"] else None
        rate = state["documents"] / max(seconds, 1e-9)
        on_progress(Progress(name, state["documents"], rate, state["files"], len(sizes), left))

    return runner.map(task, plan, arguments, on_done)


def _sum(tallies: Sequence[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _report(plan: Plan, total: Tally, seconds: float) -> None:
    """``report.json`` has no times, so that a resumed run's is the same; those are in ``.state/times.json``."""
    report = {
        "plan": plan.fingerprint(),
        "filters": [repr(judge) for judge in plan.filters],
        "dedup": plan.dedup,
        "inputs": [entry.url for entry in plan.inputs],
        "outputs": [plan.name(index) for index in range(len(plan.inputs)) if (plan.output / plan.name(index)).exists()],
        **asdict(total),
    }
    try:
        text = json.dumps(report, indent=1, ensure_ascii=False, sort_keys=True)
        write_whole(plan.output / "report.json", text.encode("utf-8", "surrogatepass"))
        write_whole(plan.state / "times.json", json.dumps({"seconds": round(seconds, 3)}).encode())
        shutil.rmtree(plan.work, ignore_errors=True)
    except OSError as error:
        raise WriteError(f"can't write the report to {plan.output}: {error}") from error
