"""Ledger: every run of a sweep in one file that survives kill -9, and that two sweeps can't write at once.

JSON lines. The first names the sweep and its recipe (everything that all runs share); each other one is a run that
ended. A line is one write to a file opened for appending, and is on the disk before ``add`` returns. Half a line that
an interruption left is cut off when the ledger is opened to write. A run that is there is never added again.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from whimbrel.errors import FormatError, UsageError, WriteError
from whimbrel.tunnel.trial import Outcome, Trial, from_json, to_json

FORMAT = 1


class Ledger:
    """Runs on disk. A context manager; while it is open, nobody else can open it to write."""

    def __init__(self, path: str | Path, recipe: Mapping[str, Any]) -> None:
        """Open to write, making the file where there is none.

        Raises UsageError for a ledger of another recipe and for one that another process has open, FormatError for a
        file that is no ledger, WriteError.
        """
        self.path = Path(path)
        self._runs: dict[str, tuple[Trial, Outcome]] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise WriteError(f"{self.path}: the ledger can't be opened: {error.strerror}") from None
        try:
            self._lock()
            self._begin(_plain(recipe))
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[tuple[Trial, Outcome]]:
        return iter(list(self._runs.values()))

    def get(self, trial: Trial) -> Outcome | None:
        """What a trial came to, if it ended."""
        found = self._runs.get(trial.key)
        return None if found is None else found[1]

    def add(self, trial: Trial, outcome: Outcome) -> None:
        """Keep a run; it is on the disk when this returns. Raises UsageError if it is there already, WriteError."""
        if trial.key in self._runs:
            raise UsageError(f"{self.path}: run {trial.key} is there already; it was not added again")
        self._append(to_json(trial, outcome))
        self._runs[trial.key] = (trial, outcome)

    def close(self) -> None:
        """Let others open it. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{self.path} is open in another sweep; wait for it, or take another --ledger") from None

    def _begin(self, recipe: Any) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            os.ftruncate(self._file, 0)
            self._append(json.dumps({"ledger": FORMAT, "recipe": recipe}))
            return
        found, self._runs = _parse(self.path, whole)
        if found != recipe:
            raise UsageError(
                f"{self.path} has the runs of another recipe ({_difference(found, recipe)}); take another --ledger"
            )
        if len(whole) < len(data):
            os.ftruncate(self._file, len(whole))

    def _append(self, line: str) -> None:
        size = os.fstat(self._file).st_size
        data = line.encode() + b"\n"
        try:
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(28, "the disk is full")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, size)
            raise WriteError(
                f"{self.path}: {error.strerror}; the runs before are safe, this one is not in it"
            ) from None


def read_ledger(path: str | Path) -> tuple[dict[str, Any], list[tuple[Trial, Outcome]]]:
    """Recipe and runs, also while a sweep writes. Raises FormatError where the file is absent or no ledger."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise FormatError(
            f"{path}: the ledger can't be read: {error.strerror}; `whimbrel tunnel sweep` makes one"
        ) from None
    recipe, runs = _parse(Path(path), data[: data.rfind(b"\n") + 1])
    return recipe, list(runs.values())


def _parse(path: Path, whole: bytes) -> tuple[dict[str, Any], dict[str, tuple[Trial, Outcome]]]:
    try:
        first, *lines = [json.loads(line) for line in whole.splitlines()]
        if first["ledger"] != FORMAT:
            raise FormatError(f"{path}: a ledger of format {first['ledger']}, this build reads {FORMAT}")
        recipe = first["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path} is no ledger of a sweep; take another --ledger") from None
    runs = {}
    for line in lines:
        trial, outcome = from_json(line)
        if trial.key in runs:
            raise FormatError(
                f"{path} has run {trial.key} twice; it was changed by something else, remove one of the lines"
            )
        runs[trial.key] = (trial, outcome)
    return recipe, runs


def _plain(recipe: Mapping[str, Any]) -> Any:
    """As it comes back from a file: tuples are lists."""
    return json.loads(json.dumps(recipe))


def _difference(found: Any, asked: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "of another version"
    keys = [key for key in {**found, **asked} if found.get(key) != asked.get(key)]
    return ", ".join(f"{key} {found.get(key)!r}, not {asked.get(key)!r}" for key in keys)
