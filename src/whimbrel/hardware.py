"""What this machine offers to this process: cores, memory, instruction set, and the WHIMBREL_* settings.

Everything here respects the container: a process limited to 2 of 64 cores, or to 1 GiB of 256, sees 2 and 1. Sources on
Linux: the affinity mask, cgroup v2 (``cpu.max``, ``memory.max``) and v1 (``cpu.cfs_quota_us``,
``memory.limit_in_bytes``), ``/proc/meminfo``. Elsewhere the operating system's plain totals.
This is the only module that reads a ``WHIMBREL_*`` variable; ``ENVIRONMENT`` lists them all (docs/environment.md is made
from it).
"""

import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from whimbrel.errors import InvalidParameter

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "WHIMBREL_MODEL": "the model that `run` and `ask` use when `-m` is not given",
        "WHIMBREL_CONTEXT": "tokens of context when `--context` is not given (`32k` is understood)",
        "WHIMBREL_THREADS": "threads of the native kernels (default: the cores that this process may use)",
        "WHIMBREL_ISA": "force an instruction set instead of the best that the CPU has; `whimbrel doctor` lists them",
        "WHIMBREL_HOME": "where models and their records are kept (default: the platform's data folder)",
        "WHIMBREL_OFFLINE": "1: touch no network; what is missing is an error",
        "WHIMBREL_API_KEY": "the key that `serve` wants when `--api-key` is not given",
        "WHIMBREL_DEBUG": "1: show tracebacks, as `--debug` does",
    }
)
"""Every variable that whimbrel reads, and what it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of memory that this process may use."""

    total: int
    available: int
    limited_by: str
    """"machine" or "cgroup": which of the two set ``total``"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A summary that is printed beside every measured number."""

    cpu: str
    architecture: str
    cores: int
    memory: Memory
    system: str
    python: str


def variable(name: str) -> str | None:
    """The value of a ``WHIMBREL_*`` variable, or None where it is unset or empty. ``name`` is one of ``ENVIRONMENT``."""
    assert name in ENVIRONMENT, f"{name} is not listed in hardware.ENVIRONMENT"
    return os.environ.get(name) or None


def flag(name: str) -> bool:
    """A ``WHIMBREL_*`` variable as yes or no. Raises InvalidParameter for anything that is neither."""
    value = (variable(name) or "0").lower()
    if value not in {"0", "1", "true", "false", "yes", "no", "on", "off"}:
        raise InvalidParameter(f"{name}={value!r} is neither yes nor no; set it to 1 or 0")
    return value in {"1", "true", "yes", "on"}


def cores() -> int:
    """Cores that this process may keep busy: the affinity mask, or the cgroup's quota where that is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _cpu_quotas()]
    return max(1, min([allowed, *quotas]))


def threads() -> int:
    """Threads that the kernels use by default: ``WHIMBREL_THREADS``, or one for each core."""
    asked = variable("WHIMBREL_THREADS")
    if asked is None:
        return cores()
    if not asked.isdigit() or not 1 <= int(asked) <= 1024:
        raise InvalidParameter(f"WHIMBREL_THREADS={asked!r} is no number of threads; set it to 1 ... 1024 or unset it")
    return int(asked)


def memory() -> Memory:
    """Memory of the machine, or of the cgroup where that is smaller; ``available`` counts reclaimable page cache."""
    total, available = _machine_memory()
    limited_by = "machine"
    for limit, used in _memory_limits():
        if limit < total:
            total, limited_by = limit, "cgroup"
        available = min(available, max(0, limit - used))
    return Memory(total=total, available=available, limited_by=limited_by)


def mapped_bytes() -> int:
    """Bytes of mapped files that are resident in this process; 0 where the system doesn't tell. Takes 4 microseconds."""
    try:
        file = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return 0
    try:
        return int(os.read(file, 128).split()[2]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(file)


def isa() -> str:
    """The instruction set that the native kernels run with, ``WHIMBREL_ISA`` where that is set.

    Imports the native module. Raises InvalidParameter for one that this build or processor lacks.
    """
    native = import_module("whimbrel._native")
    if asked := variable("WHIMBREL_ISA"):
        try:
            native.select_isa(asked)
        except ValueError as error:
            raise InvalidParameter(f"WHIMBREL_ISA={asked}: {error}; unset it or choose one of these") from error
    return str(native.isa())


def machine() -> Machine:
    """Everything above in one record, without touching the native module."""
    return Machine(
        cpu=_cpu_name(),
        architecture=platform.machine(),
        cores=cores(),
        memory=memory(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def _cpu_name() -> str:
    for line in _lines(Path("/proc/cpuinfo")):
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Hardware", "CPU part"}:
            return value.strip()
    return platform.processor() or platform.machine()


def _machine_memory() -> tuple[int, int]:
    """(total, available) of the machine in bytes."""
    kilobytes = {}
    for line in _lines(Path("/proc/meminfo")):
        key, _, value = line.partition(":")
        if key in {"MemTotal", "MemAvailable"}:
            kilobytes[key] = int(value.split()[0])
    if len(kilobytes) == 2:
        return kilobytes["MemTotal"] * 1024, kilobytes["MemAvailable"] * 1024
    if sys.platform != "win32" and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total
    return sys.maxsize, sys.maxsize  # nothing to ask here: never claim that a model does not fit


def _cpu_quotas() -> Iterator[float]:
    """Every limit, in cores, that a cgroup above this process sets."""
    for folder in _cgroup_folders("cpu"):
        quota, period = [*_read(folder / "cpu.max").split(), "", ""][:2]
        if not period:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _memory_limits() -> Iterator[tuple[int, int]]:
    """(limit, used without reclaimable cache) in bytes of every cgroup above this process that has a limit."""
    for folder in _cgroup_folders("memory"):
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        if limit.isdigit() and used.isdigit() and int(limit) < 1 << 60:
            yield int(limit), int(used) - _reclaimable(folder)


def _reclaimable(folder: Path) -> int:
    """Bytes of page cache that the kernel gives back first."""
    names = {"inactive_file", "total_inactive_file"}
    return max((int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.split()[0] in names), default=0)


def _cgroup_folders(controller: str, root: Path = Path("/sys/fs/cgroup")) -> Iterator[Path]:
    """This process's cgroup and all above it, in the unified (v2) or the controller's own (v1) hierarchy."""
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / controller if controllers else root
        inside = Path(path.strip().lstrip("/"))
        for depth in range(len(inside.parts), -1, -1):
            folder = mount.joinpath(*inside.parts[:depth])
            if folder.is_dir():
                yield folder


def _read(path: Path) -> str:
    """A small file of the kernel as text, or "" where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return _read(path).splitlines()
