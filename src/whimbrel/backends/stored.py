"""StoredDocument: what a ``.kv`` file says about a document, without any model: ids, text, where each token begins.

And ``describe_source`` and ``differences``: which document a file was made of, and whether two files would be the same.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.errors import FormatError, UsageError
from whimbrel.formats.kv_file import KVFile

Ids = npt.NDArray[np.int32]


class StoredDocument:
    """A complete ``.kv`` file, opened."""

    def __init__(self, path: str | Path) -> None:
        """Raises ``UsageError`` where there is none, ``FormatError`` where it is damaged, foreign or half written."""
        self.file = KVFile(path)
        self.path = self.file.path
        self.meta = self.file.meta
        if "source" not in self.meta and "kind" in self.meta:
            raise FormatError(f"{path} is a conversation and no document; go on with it: whimbrel run --session {path}")
        try:
            self.name = str(self.meta["source"]["name"])
            self.prefix_tokens = int(self.meta["prompt"]["prefix_tokens"])
            self.system: str | None = self.meta["prompt"]["system"]
            self.settings: dict[str, Any] = dict(self.meta["settings"])
            self.model: dict[str, Any] = dict(self.meta["model"])
            self.ids: Ids = np.frombuffer(self.file.section("ids"), np.int32)
            """[tokens] the beginning of the user's turn, then the document"""
            self.offsets: Ids = np.frombuffer(self.file.section("offsets"), np.int32)
            """[tokens - prefix_tokens] the character of ``text`` where each token of the document begins"""
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} lacks what a document needs ({error!r}); read the document again") from None
        if len(self.offsets) != len(self.ids) - self.prefix_tokens or len(self.ids) // BLOCK_SIZE != self.num_blocks:
            raise FormatError(f"{path} contradicts itself about its tokens; read the document again")

    @property
    def num_blocks(self) -> int:
        """Whole blocks; the rest of the ids is read with each question."""
        return self.file.layout.num_blocks

    @property
    def block_ids(self) -> Ids:
        """[num_blocks * 64]"""
        return self.ids[: self.num_blocks * BLOCK_SIZE]

    @property
    def tail_ids(self) -> Ids:
        """Up to 63 ids behind the last whole block."""
        return self.ids[self.num_blocks * BLOCK_SIZE :]

    @cached_property
    def text(self) -> str:
        """The document as it was read, without blanks around it."""
        try:
            return zlib.decompress(self.file.section("text")).decode()
        except (zlib.error, UnicodeDecodeError) as error:
            raise FormatError(f"the text in {self.path} is damaged: {error}; read the document again") from None

    def characters(self, first: int, last: int) -> tuple[int, int]:
        """The range of ``text`` of tokens ``[first, last)`` of ``ids``; what is before the document is empty."""
        first, last = (min(max(token - self.prefix_tokens, 0), len(self.offsets)) for token in (first, last))
        edges = [int(self.offsets[token]) if token < len(self.offsets) else len(self.text) for token in (first, last)]
        return edges[0], edges[1]

    def passage(self, block: int) -> tuple[int, int]:
        """The range of ``text`` in block ``block`` of a prompt that begins with this document."""
        return self.characters(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)

    def refuse_if_changed(self) -> None:
        """Raises ``UsageError`` where the document is still there and is another one now.

        Only a file whose size or time differs is read again.
        """
        source = self.meta["source"]
        path = Path(source["path"]) if source.get("path") else None
        try:
            if path is None or not path.is_file():
                return
            stat = path.stat()
            if (stat.st_size, stat.st_mtime_ns) == (source["bytes"], source["mtime_ns"]):
                return
            now = file_sha256(path)
        except OSError:
            return
        if now != source["sha256"]:
            raise UsageError(
                f"{path} has changed since {self.path} was read from it: read it again with `whimbrel read {path}`, "
                "or ask about what it was then (--stale; in Python stale=True)"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One way in which two files would differ."""

    what: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return (
            f"another {self.what}"
            if self.old is None or self.new is None
            else f"{self.what} {self.old}, not {self.new}"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two files' ``meta`` disagree about, in words; [] if their blocks are the same."""
    found = []
    for part, key, what, shown in _COMPARED:
        a, b = (meta.get(part, {}).get(key) for meta in (old, new))
        if a != b:
            found.append(str(Difference(what=what, old=a if shown else None, new=b if shown else None)))
    return list(dict.fromkeys(found))


_COMPARED = (
    ("source", "sha256", "document", False),
    ("model", "fingerprint", "model", False),
    ("format", "kv_dtype", "kv_dtype", True),
    ("format", "rope", "context or rotary embedding", False),
    ("format", "kernels", "attention", False),
    ("settings", "sparse", "attention", False),
    ("format", "layers", "shape", False),
    ("format", "heads", "shape", False),
    ("format", "head_dim", "shape", False),
    ("prompt", "system", "system message", False),
    ("prompt", "template", "chat template", False),
    ("prompt", "ids", "tokenizer", False),
)


def describe_source(path: Path | None, name: str, data: bytes) -> dict[str, Any]:
    """Name, place and hash of a document, for JSON. ``path`` is None for standard input."""
    mtime = path.stat().st_mtime_ns if path is not None else None
    return {
        "name": name,
        "path": str(path.resolve()) if path is not None else None,
        "bytes": len(data),
        "mtime_ns": mtime,
        "sha256": sha256(data).hexdigest(),
    }


def file_sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    from hashlib import file_digest

    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
