"""Cores and memory inside of containers, and the settings of the environment."""

import mmap
import os
from pathlib import Path

import pytest

from whimbrel import hardware
from whimbrel.errors import InvalidParameter


def cgroup(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Pretend that this process's cgroup is ``folder``, with these files (``__`` stands for a dot)."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    monkeypatch.setattr(hardware, "_cgroup_folders", lambda controller: iter([folder]))


def test_the_machine() -> None:
    machine = hardware.machine()
    assert machine.cores >= 1 and machine.cpu and machine.python
    assert 0 < machine.memory.available <= machine.memory.total


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu__max": "150000 100000\n"}, 2),
        ({"cpu__max": "50000 100000\n"}, 1),
        ({"cpu__max": "max 100000\n"}, 64),
        ({"cpu__cfs_quota_us": "300000", "cpu__cfs_period_us": "100000"}, 3),
        ({"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
)
def test_cores_in_a_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int) -> None:
    cgroup(tmp_path, monkeypatch, **files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert hardware.cores() == cores


@pytest.mark.parametrize(
    ("files", "total", "available"),
    [
        ({"memory__max": "1000", "memory__current": "700", "memory__stat": "anon 400\ninactive_file 200\n"}, 1000, 500),
        ({"memory__limit_in_bytes": "1000", "memory__usage_in_bytes": "900"}, 1000, 100),
        ({"memory__limit_in_bytes": str(2**63 - 4096), "memory__usage_in_bytes": "900"}, 10_000, 8_000),
        ({"memory__max": "max", "memory__current": "700"}, 10_000, 8_000),
    ],
)
def test_memory_in_a_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], total: int, available: int
) -> None:
    cgroup(tmp_path, monkeypatch, **files)
    monkeypatch.setattr(hardware, "_machine_memory", lambda: (10_000, 8_000))
    memory = hardware.memory()
    assert (memory.total, memory.available) == (total, available)
    assert memory.limited_by == ("cgroup" if total < 10_000 else "machine")


def test_nested_cgroups_count_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "9:memory:/outer/inner\n8:name=systemd:/\n0::/outer\n"
    monkeypatch.setattr(hardware, "_read", lambda path: text)
    for folder in ("memory/outer/inner", "outer"):
        (tmp_path / folder).mkdir(parents=True)
    found = [str(path.relative_to(tmp_path)) for path in hardware._cgroup_folders("memory", root=tmp_path)]
    assert found == ["memory/outer/inner", "memory/outer", "memory", "outer", "."]


def test_a_machine_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_read", lambda path: "")
    machine = hardware.machine()
    assert machine.cores >= 1 and machine.memory.total > 0 and machine.cpu


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cores", lambda: 6)
    monkeypatch.delenv("WHIMBREL_THREADS", raising=False)
    assert hardware.threads() == 6
    monkeypatch.setenv("WHIMBREL_THREADS", "3")
    assert hardware.threads() == 3
    for wrong in ("0", "-1", "many", "2.5", "99999"):
        monkeypatch.setenv("WHIMBREL_THREADS", wrong)
        with pytest.raises(InvalidParameter, match="WHIMBREL_THREADS"):
            hardware.threads()


def test_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, value in (("1", True), ("yes", True), ("0", False), ("OFF", False), ("", False)):
        monkeypatch.setenv("WHIMBREL_OFFLINE", text)
        assert hardware.flag("WHIMBREL_OFFLINE") is value
    monkeypatch.setenv("WHIMBREL_OFFLINE", "perhaps")
    with pytest.raises(InvalidParameter, match="neither yes nor no"):
        hardware.flag("WHIMBREL_OFFLINE")


def test_only_this_module_reads_our_variables() -> None:
    package = Path(hardware.__file__).parent
    readers = [
        path.name
        for path in package.rglob("*.py")
        if path != Path(hardware.__file__)
        and any(
            f"{reader}{quote}WHIMBREL_" in path.read_text()
            for reader in ("environ[", "environ.get(", "getenv(")
            for quote in "\"'"
        )
    ]
    assert readers == []


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells")
def test_mapped_files_count_while_they_are_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(32 << 20))
    before = hardware.mapped_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: 1 << 12]) == 0
        assert 20 << 20 < hardware.mapped_bytes() - before < 60 << 20
        mapped.madvise(mmap.MADV_DONTNEED)
        assert hardware.mapped_bytes() - before < 10 << 20
