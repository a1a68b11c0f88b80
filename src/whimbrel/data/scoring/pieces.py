"""Text -> BPE ids through a cache of chunks, and each id's own string: step 4 of the preprocessing, at the speed of a dict.

The same words come again and again, so a text is cut where its tokenizer would cut anyway (``boundaries``), and each chunk is
encoded once. Ids travel as the bytes of int32, so that a document is one ``bytes.join`` over a ``map``: no Python runs per
token. The result equals ``encode`` of the whole text (tests compare real documents).
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from whimbrel.data.scoring.boundaries import CONTROLS, chunks_of
from whimbrel.data.scoring.normalise import line
from whimbrel.errors import FormatError, ModelNotFound

CACHED_CHUNKS = 200_000
"""about 50 MB with their ids; the cache begins anew when it is full"""
LONGEST_CHUNK = 48
"""longer ones (URLs, encoded blobs, unspaced scripts) rarely come again"""


class Pieces:
    """A tokenizer as the classifier uses it. Not for two threads at once.

    ``strings[id]``: what ``decode([id])`` gives; ids that hold only part of a UTF-8 character give U+FFFD, as they do there.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        size = max(size, 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0))
        self.strings: list[str] = [tokenizer.decode([index], skip_special_tokens=False) for index in range(size)]
        self._added = _common_starts(added.content for added in tokenizer.get_added_tokens_decoder().values())
        self._plain = chunks_of(tokenizer, plain=True)
        self._any = chunks_of(tokenizer, plain=False)
        self._cache = _Cache(tokenizer)

    @classmethod
    def open(cls, path: str | Path) -> "Pieces":
        """From a ``tokenizer.json`` or a folder that holds one. Raises ModelNotFound, FormatError."""
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise ModelNotFound(f"no tokenizer at {file}: want a tokenizer.json, or the folder of a model that has one")
        try:
            return cls(tokenizers.Tokenizer.from_file(os.fspath(file)))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise FormatError(f"{file} is no tokenizer.json: {error}") from error

    @property
    def cached(self) -> bool:
        """Whether ASCII texts go through the cache; False for tokenizers that have no safe boundaries we know of."""
        return self._plain is not None

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the whole tokenizer."""
        return hashlib.blake2b(self._tokenizer.to_str().encode(), digest_size=8).hexdigest()

    def id_of(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def ids(self, text: str) -> bytes:
        """Ids of a normalised text without special tokens, as the bytes of int32; len // 4 is their number."""
        pattern = self._plain if text.isascii() and not CONTROLS.search(text) else self._any
        if pattern is None or any(start in text for start in self._added) or _is_unspaced(text):
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32).tobytes()
        return b"".join(map(self._cache.__getitem__, pattern.findall(text)))

    def line(self, text: str) -> str:
        """The line that fastText reads for a normalised text: what a classifier is trained on."""
        ids: NDArray[np.int32] = np.frombuffer(self.ids(text), np.int32)
        return line(" ".join(map(self.strings.__getitem__, ids.tolist())))

    def line_slowly(self, text: str) -> str:
        """The same line by the released script's own steps, one ``decode`` for each id: what ``line`` is tested against."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return line(" ".join(self._tokenizer.decode([index], skip_special_tokens=False) for index in ids))


class _Cache(dict[str, bytes]):
    """chunk -> ids. A miss is encoded; the cache is emptied when full, which keeps frequent chunks without any counting."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        super().__init__()
        self._encode = tokenizer.encode

    def __missing__(self, chunk: str) -> bytes:
        ids = np.array(self._encode(chunk, add_special_tokens=False).ids, np.int32).tobytes()
        if len(chunk) <= LONGEST_CHUNK:
            if len(self) >= CACHED_CHUNKS:
                self.clear()
            self[chunk] = ids
        return ids


def _is_unspaced(text: str) -> bool:
    """Chinese, Thai, encoded blobs: chunks would be sentences, and a cache of them useless."""
    return len(text) > 16 * (text.count(" ") + text.count("\n") + 2)


def _common_starts(contents: Iterable[str]) -> tuple[str, ...]:
    """The shortest strings of which every added token has one at its start: a text without them has no added token."""
    starts: set[str] = set()
    for content in contents:
        starts.add(content[:2] if content[:2].strip() == content[:2] and not content[:2].isalnum() else content)
    return tuple(sorted(starts))
