"""Where a number comes from: machine, instruction set, commit and command, and the spread of what was measured."""

import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import whimbrel
from whimbrel import hardware

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


def provenance() -> dict[str, object]:
    """What stands beside every number: version, commit, command, machine and instruction set of the kernels."""
    return {
        "whimbrel_version": whimbrel.__version__,
        "commit": commit(),
        "command": command(),
        "machine": asdict(hardware.machine()),
        "isa": instruction_set(),
    }


def command() -> str:
    """The command line of this process, the program by its name alone."""
    program = Path(sys.argv[0])
    return shlex.join([program.parent.name if program.name == "__main__.py" else program.name, *sys.argv[1:]])


def commit() -> str | None:
    """Commit of the source tree that this package runs from, with ``+`` if the tree has changes; None if installed."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    name = _git(root, "rev-parse", "--short=12", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return None if name is None else name + ("+" if changed else "")


def instruction_set() -> str | None:
    """The native kernels' target on this machine, None without the native module."""
    try:
        return hardware.isa()
    except ImportError:
        return None


class ForeignLoad:
    """The share of the machine that other processes used while the ``with`` body ran; None where it can't be told.

    A wall time on two cores means little beside other work, so every measurement carries this. Linux only.
    """

    share: float | None = None

    def __enter__(self) -> Self:
        self._before = _busy_seconds(), os.times()
        return self

    def __exit__(self, *_: object) -> None:
        (busy_before, before), busy, now = self._before, _busy_seconds(), os.times()
        if busy is None or busy_before is None:
            return
        own = sum(now[:4]) - sum(before[:4])
        available = (os.cpu_count() or 1) * max(now.elapsed - before.elapsed, 0.01)
        self.share = significant(max(0.0, busy - busy_before - own) / available)


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


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command, None if it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
