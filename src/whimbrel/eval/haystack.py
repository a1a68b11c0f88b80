"""Haystack: the text that needles are hidden in, and documents that questions are asked about.

Without a file this is the shipped collection (``texts``): first paragraphs of 568 Python Enhancement Proposals, public
domain, about 70,000 tokens. A passage longer than the text goes through the documents again in another order; how often
that happened is part of every record, because a text that repeats is easier to search than one that does not.
"""

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from whimbrel.errors import FormatError, UsageError

SHIPPED = Path(__file__).parent / "texts" / "peps.jsonl.gz"

_JSON_LINES = (".jsonl", ".jsonl.gz")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\"'][.!?]) (?=[A-Z\"'(])")


@dataclass(frozen=True, slots=True)
class Document:
    """One text with its name."""

    id: str
    text: str
    headers: Mapping[str, str]
    """``Title: ...`` lines before the first empty line; empty where a text has none"""


@dataclass(frozen=True)
class Haystack:
    """Documents, and passages of any length cut from them."""

    source: str
    """file name, for the record"""
    documents: Sequence[Document]

    @cached_property
    def characters(self) -> int:
        """Characters of all texts."""
        return sum(len(document.text) + 1 for document in self.documents)

    @property
    def about(self) -> dict[str, object]:
        """What a record says of it: name, size and a checksum of the text."""
        checksum = hashlib.sha256("\n".join(document.text for document in self.documents).encode()).hexdigest()
        return {"source": self.source, "characters": self.characters, "sha256": checksum[:16]}

    def passage(self, rng: random.Random, characters: int) -> str:
        """At least ``characters`` characters in one line, from a random document on."""
        parts: list[str] = []
        length = 0
        for document in self._endless(rng):
            parts.append(document.text)
            length += len(document.text) + 1
            if length > characters:
                return " ".join(parts)
        raise AssertionError("endless")

    def repeats(self, characters: int) -> int:
        """How often a passage of that length goes through the text again: 0 if nothing in it is there twice."""
        return max(0, -(-characters // self.characters) - 1)

    def _endless(self, rng: random.Random) -> Iterator[Document]:
        """From a random document to the one before it; then all, in random order, again and again."""
        first = rng.randrange(len(self.documents))
        order = [*self.documents[first:], *self.documents[:first]]
        while True:
            yield from order
            rng.shuffle(order)


def read_haystack(path: Path | None = None) -> Haystack:
    """From text, Markdown, HTML, PDF, or JSON lines with a ``text`` (also ``.gz``); None is the shipped collection.

    White space is collapsed. Raises ``UsageError`` where there is no file, ``FormatError`` where it has no text.
    """
    path = SHIPPED if path is None else path
    if path.name.endswith(_JSON_LINES):
        documents = [document for document in _json_lines(path) if document.text]
    else:
        from whimbrel.formats.document import read_document

        documents = [Document(path.stem, _one_line(read_document(path)), {})]
    if not documents:
        raise FormatError(f'{path} has no text in it; each line needs a "text"')
    return Haystack(path.name, documents)


def read_text(path: Path) -> str:
    """One text of all that a file has; white space as it is, but for JSON lines. Raises as ``read_haystack`` does."""
    if path.name.endswith(_JSON_LINES):
        return "\n\n".join(document.text for document in read_haystack(path).documents)
    from whimbrel.formats.document import read_document

    return read_document(path)


def sentence_starts(text: str) -> list[int]:
    """Positions where a sentence begins, the first one (0) included."""
    return [0, *(match.end() for match in _SENTENCE_END.finditer(text))]


def _json_lines(path: Path) -> Iterator[Document]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except (OSError, EOFError) as error:
        raise FormatError(f"{path} can't be read: {error}") from error
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            text, id = str(entry["text"]), str(entry.get("id", number))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f'{path}, line {number}: no JSON object with a "text" ({error!r})') from None
        headers, body = _split_headers(text)
        yield Document(id, _one_line(body), {"Title": str(entry["title"]), **headers} if "title" in entry else headers)


def _split_headers(text: str) -> tuple[dict[str, str], str]:
    """``Name: value`` lines at the beginning (as in an e-mail, continued by indented ones), and what follows them."""
    head, _, body = text.partition("\n\n")
    headers: dict[str, str] = {}
    name = None
    for line in head.splitlines():
        match = re.match(r"([A-Z][\w-]*):\s*(.*)", line)
        if match:
            name, headers[match[1]] = match[1], match[2].strip()
        elif name and line.startswith(" "):
            headers[name] += f" {line.strip()}"
        else:
            return {}, text
    return (headers, body) if headers else ({}, text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
