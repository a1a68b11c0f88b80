"""Points of a ladder: what a checkpoint's conditional loss and its score on a task were. Read from CSV or JSON lines."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whimbrel.errors import FormatError

FIELDS = ("task", "model", "run", "step", "loss", "score")


@dataclass(frozen=True, slots=True)
class Point:
    """One checkpoint on one task."""

    task: str
    model: str
    """its size, as in 190M: what is held out is named by it"""
    run: str
    """points of one run are not independent of each other"""
    step: int
    loss: float
    """conditional loss of the answers; per token for models with one vocabulary, else per byte"""
    score: float
    """0 to 1"""


def read_points(path: str | Path) -> list[Point]:
    """A .csv with the columns of ``FIELDS``, or a .jsonl with such objects. Raises FormatError, naming the line."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines: Iterable[Mapping[str, object]] = (
                csv.DictReader(row for row in file if not row.startswith("#"))
                if path.suffix == ".csv"
                else (json.loads(line) for line in file)
            )
            return [_point(path, number, line) for number, line in enumerate(lines, 1)]
    except OSError as error:
        raise FormatError(f"{path}: the points can't be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path}: neither .csv nor .jsonl with {', '.join(FIELDS)}: {error}") from None


def settled(points: Sequence[Point], skip: float = 0.1) -> list[Point]:
    """Without the first ``skip`` of each run's checkpoints on each task, in which loss and score are not yet related."""
    runs: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        runs.setdefault((point.task, point.model, point.run), []).append(point)
    return [
        point
        for members in runs.values()
        for point in sorted(members, key=lambda p: p.step)[math.ceil(skip * len(members)) if len(members) > 1 else 0 :]
    ]


def last(points: Sequence[Point]) -> list[Point]:
    """The last checkpoint of each run on each task."""
    runs: dict[tuple[str, str, str], Point] = {}
    for point in sorted(points, key=lambda p: p.step):
        runs[point.task, point.model, point.run] = point
    return list(runs.values())


def _point(path: Path, number: int, line: Mapping[str, object]) -> Point:
    try:
        task, model, run, step, loss, score = (str(line[name]) for name in FIELDS)
        point = Point(task, model, run, int(step), float(loss), float(score))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}, point {number}: {', '.join(FIELDS)} were expected: {error}") from None
    if not math.isfinite(point.loss) or not 0 <= point.score <= 1:
        raise FormatError(f"{path}, point {number}: loss {point.loss} or score {point.score} (0 to 1) is impossible")
    return point
