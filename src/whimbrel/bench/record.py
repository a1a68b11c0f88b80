"""What stands beside a measurement: its spread, and what else the machine was doing."""

import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, the middle and the greatest of a few measurements of one thing."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Spread of at least one value, rounded to four significant digits."""
        return cls(*(significant(v) for v in (min(values), statistics.median(values), max(values))))


class ForeignLoad:
    """The share of the machine that other processes used while the ``with`` body ran; None where it can't be told.

    A wall time on two cores means little beside other work, so every measurement carries this. Linux only.
    """

    share: float | None = None

    def __init__(self, *pids: int) -> None:
        """``pids``: other processes whose work is not foreign, such as a server that is measured."""
        self._pids = pids

    def __enter__(self) -> Self:
        self._before = _busy_seconds(), os.times(), self._others()
        return self

    def __exit__(self, *_: object) -> None:
        (busy_before, before, others), busy, now = self._before, _busy_seconds(), os.times()
        if busy is None or busy_before is None:
            return
        own = sum(now[:4]) - sum(before[:4]) + self._others() - others
        available = (os.cpu_count() or 1) * max(now.elapsed - before.elapsed, 0.01)
        self.share = significant(max(0.0, busy - busy_before - own) / available)

    def _others(self) -> float:
        return sum(cpu_seconds(pid) or 0.0 for pid in self._pids)


def cpu_seconds(pid: int) -> float | None:
    """CPU time that a process has used, its threads together; None where the system doesn't say. Linux only."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory() -> int | None:
    """Most bytes of memory that this process has held at a time; None where the system doesn't say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def significant(value: float) -> float:
    """``value`` with four significant digits: no measurement here is better than that."""
    return float(f"{value:.4g}")


def _busy_seconds() -> float | None:
    """CPU seconds that everything on this machine has used since boot."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _waiting, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
