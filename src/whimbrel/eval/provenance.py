"""Where a number comes from: version, commit, command, machine and instruction set."""

import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import whimbrel
from whimbrel import hardware


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


def _git(root: Path, *arguments: str) -> str | None:
    """Output of a git command, None if it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
