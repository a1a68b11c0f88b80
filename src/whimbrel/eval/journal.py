"""Journal: records on disk as they come, so that a long evaluation goes on where it was stopped.

A file of JSON lines. The first says what was evaluated and how (*identity*); each other one is a record. A line that an
interruption cut off is dropped. Records of another identity are refused, never mixed.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from whimbrel.errors import FormatError, UsageError
from whimbrel.eval.record import Record

log = logging.getLogger(__name__)

FORMAT = 1


class Journal:
    """The records of one evaluation, in memory and (with a path) on disk."""

    def __init__(
        self, path: Path | None = None, identity: Mapping[str, Any] | None = None, *, commit: str | None = None
    ) -> None:
        """Reads what is there. ``identity``: everything that a record depends on beside its item.

        ``commit`` is only noted: records of another one are kept with a warning.
        Raises ``UsageError`` for another identity, ``FormatError`` for a file that is no journal.
        """
        self.path = path
        self._records: dict[str, Record] = {}
        if path is None:
            return
        head = {"journal": FORMAT, "identity": _as_json(identity or {}), "commit": commit}
        if path.exists() and path.stat().st_size:
            self._read(path, head)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head, ensure_ascii=False) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self._records)

    def get(self, id: str) -> Record | None:
        """The record of an item, if it is there."""
        return self._records.get(id)

    def add(self, record: Record) -> None:
        """Keep a record; it is in the file when this returns."""
        self._records[record.id] = record
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")

    def _read(self, path: Path, head: Mapping[str, Any]) -> None:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            first, *lines = [json.loads(line) for line in whole.splitlines()]
            found = first["identity"] if first["journal"] == FORMAT else None
            self._records = {line["id"]: _record(line) for line in lines}
        except (ValueError, KeyError, TypeError):
            raise FormatError(f"{path} holds no records of an evaluation; take another --output") from None
        if found != head["identity"]:
            raise UsageError(
                f"{path} has records of another evaluation ({_difference(found, head['identity'])});"
                " take another --output, or remove it"
            )
        if first.get("commit") != head["commit"]:
            log.warning("%s was begun at commit %s; this is %s", path, first.get("commit"), head["commit"])
        if len(whole) < len(data):
            path.write_bytes(whole)


def _record(line: Mapping[str, Any]) -> Record:
    known = {field.name for field in fields(Record)}
    return Record(**{key: value for key, value in line.items() if key in known} | {"expected": tuple(line["expected"])})


def _as_json(value: Mapping[str, Any]) -> Any:
    """As it comes back from a file: tuples are lists."""
    return json.loads(json.dumps(value))


def _difference(found: Any, asked: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "of another version"
    keys = [key for key in {**found, **asked} if found.get(key) != asked.get(key)]
    return ", ".join(f"{key} {found.get(key)!r}, not {asked.get(key)!r}" for key in keys)
