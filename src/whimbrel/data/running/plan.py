"""What a run does, as one object that travels to workers; its fingerprint tells whether a folder holds the same run."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from whimbrel.data.document import Filter
from whimbrel.data.duplicates import METHODS
from whimbrel.data.reading.files import Input
from whimbrel.data.writing import FORMATS
from whimbrel.errors import InvalidParameter, UsageError, WriteError


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Read ``inputs``, apply ``filters`` in order, take out copies, write one file per input into ``output``."""

    inputs: tuple[Input, ...]
    output: Path
    filters: tuple[Filter, ...] = ()
    column: str = "text"
    format: str = "jsonl.zst"
    shard_tokenizer: str | None = None
    """for format "shards": the tokenizer.json of the model to be trained"""
    dedup: str | None = None
    """None, "exact" or "minhash" """
    keep_rejected: bool = False
    """write rejected documents, with their reasons, to ``output/rejected``"""
    strict: bool = False
    """stop at the first place that can't be read, instead of counting it"""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InvalidParameter(f"format={self.format} is impossible; want one of {', '.join(FORMATS)}")
        if self.dedup is not None and self.dedup not in METHODS:
            raise InvalidParameter(f"dedup={self.dedup} is impossible; want one of {', '.join(METHODS)}")
        if self.format == "shards" and self.shard_tokenizer is None:
            raise InvalidParameter("format=shards needs shard_tokenizer, the tokenizer.json of the model to be trained")
        inside = [
            entry.url for entry in self.inputs if "://" not in entry.url and self.output in Path(entry.url).parents
        ]
        if inside:
            raise UsageError(f"{inside[0]} lies in the output folder {self.output}; write to another folder")

    @property
    def state(self) -> Path:
        """Where finished tasks are noted."""
        return self.output / ".state"

    @property
    def work(self) -> Path:
        """Where documents wait for deduplication."""
        return self.output / ".work"

    def name(self, index: int) -> str:
        """An input's output file, without its folder."""
        return f"{index:05d}{FORMATS[self.format]}"

    def fingerprint(self) -> str:
        """Twelve hex digits of everything that decides what is written."""
        parts = [
            [[entry.url, entry.kind, entry.size] for entry in self.inputs],
            [repr(judge) for judge in self.filters],
            [self.column, self.format, self.shard_tokenizer, self.dedup, self.keep_rejected],
        ]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()

    def begin(self) -> bool:
        """Claim the output folder; True when it holds a part of this very run. Raises UsageError for another's, WriteError."""
        mark = self.state / "plan"
        try:
            if mark.exists():
                if mark.read_text() != self.fingerprint():
                    raise UsageError(
                        f"{self.output} holds a run with other inputs or options; choose another --output, "
                        "or remove the folder to begin anew"
                    )
                return True
            if self.output.exists() and any(self.output.iterdir()) and not self.state.exists():
                raise UsageError(f"{self.output} holds other files; choose an empty folder or a new one")
            self.state.mkdir(parents=True, exist_ok=True)
            write_whole(mark, self.fingerprint().encode())
        except OSError as error:
            raise WriteError(f"can't write to {self.output}: {error}") from error
        return False


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
