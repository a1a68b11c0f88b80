"""The records of the models that are here, and the files that are whimbrel's own.

    <data folder>/models/<name>.json     one record for each model: where it lies, where it came from
    <data folder>/files/<name>/...       files that whimbrel fetched itself (wheel, URL)
    <data folder>/downloads/...          what is on its way; kept, so that the same command goes on where it stopped

The data folder is ``WHIMBREL_HOME`` or the platform's (XDG on Linux). A record of a Hub repository points into the Hub's
cache, one of a registered folder points to that folder; neither is ever copied.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from whimbrel import hardware
from whimbrel.errors import FormatError, ModelNotFound
from whimbrel.zoo.catalog import DEFAULT_MODEL, catalog
from whimbrel.zoo.references import Reference, parse_reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A model that is here."""

    name: str
    path: str
    """file or folder to load"""
    kind: str
    """"own" (whimbrel fetched it), "hub" (lies in the Hub's cache) or "local" (registered, belongs to someone else)"""
    source: str
    """where it came from: requirement, repository, URL or path"""
    bytes: int
    revision: str = ""
    sha256: str = ""
    license: str = ""
    added: int = 0
    """unix time"""


class Store:
    """The records and files under one data folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or data_folder()

    @property
    def downloads(self) -> Path:
        """Where unfinished downloads wait."""
        return self.folder / "downloads"

    def files(self, name: str) -> Path:
        """The folder of one model's own files."""
        return self.folder / "files" / slug(name)

    def records(self) -> list[Record]:
        """All records by name. Raises FormatError for a record that can't be read."""
        return sorted(self._read_all(), key=lambda record: record.name)

    def get(self, name: str) -> Record | None:
        """The record of that name, or None."""
        path = self._record_path(name)
        return _read_record(path) if path.exists() else None

    def put(self, record: Record) -> Record:
        """Write a record, replacing an older one of the name in one step."""
        write_atomically(self._record_path(record.name), json.dumps(asdict(record), indent=2) + "\n")
        return record

    def remove(self, name: str) -> Record:
        """Forget a model, and delete its files where they are whimbrel's own. Raises ModelNotFound."""
        record = self.get(name)
        if record is None:
            raise ModelNotFound(f"no model {name!r} is here, so nothing was removed; `whimbrel list` shows what is")
        self._record_path(name).unlink(missing_ok=True)
        if record.kind == "own":
            shutil.rmtree(self.files(name), ignore_errors=True)
        return record

    def _read_all(self) -> Iterator[Record]:
        for path in (self.folder / "models").glob("*.json"):
            yield _read_record(path)

    def _record_path(self, name: str) -> Path:
        return self.folder / "models" / f"{slug(name)}.json"


def data_folder() -> Path:
    """``WHIMBREL_HOME``, or the platform's folder for an application's data."""
    if home := hardware.variable("WHIMBREL_HOME"):
        return Path(home).expanduser()
    from platformdirs import user_data_path

    return user_data_path("whimbrel", appauthor=False)


def resolve(text: str | None = None, store: Store | None = None) -> Path:
    """The local path of a model that is here: by name, by Hub reference, or the path itself. Touches no network.

    Raises ModelNotFound with the ``whimbrel pull`` line to run where it is not.
    """
    reference = parse_reference(text or hardware.variable("WHIMBREL_MODEL") or DEFAULT_MODEL)
    if reference.kind == "path":
        return _existing(Path(reference.text).expanduser(), f"there is no file or folder {reference.text}")
    record = (store or Store()).get(reference.text)
    if record is None:
        raise ModelNotFound(_not_here(reference))
    return _existing(
        Path(record.path), f"{record.name} was at {record.path} and is gone; `whimbrel pull {record.name}`"
    )


def slug(name: str) -> str:
    """``name`` as a file name: readable, and different for different names."""
    return re.sub(r"[^\w.-]", lambda match: f"%{ord(match[0]):02x}", name, flags=re.ASCII)


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _read_record(path: Path) -> Record:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{field.name: values[field.name] for field in fields(Record) if field.name in values})
    except (OSError, ValueError, TypeError) as error:
        raise FormatError(f"the record {path} can't be read ({error}); remove it and pull the model again") from error


def _existing(path: Path, message: str) -> Path:
    if not path.exists():
        raise ModelNotFound(message)
    return path


def _not_here(reference: Reference) -> str:
    if reference.kind != "name" or reference.text in catalog():
        return f"{reference.text} is not on this machine yet; run `whimbrel pull {reference.text}`"
    return (
        f"no model is called {reference.text!r}; `whimbrel list --all` shows names, or give org/name, a URL or a path"
    )
