"""What can't be read, said with its file and offset: counted and stepped over, or the end of the run, as the caller likes."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from whimbrel.errors import FormatError


@dataclass(frozen=True, slots=True)
class Fault:
    """One place of an input that can't be read. ``offset`` counts decompressed bytes, rows or records, as ``unit`` says."""

    file: str
    offset: int
    problem: str
    unit: str = "byte"

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.offset}: {self.problem}"

    def json(self) -> dict[str, Any]:
        """For reports."""
        return asdict(self)


OnFault = Callable[[Fault], None]
"""Called for each fault; a reader goes on with the next document, or the next file, when it returns."""


def stop(fault: Fault) -> None:
    """The strict choice. Raises FormatError."""
    raise FormatError(f"{fault}; leave out --strict to step over such places and count them")
