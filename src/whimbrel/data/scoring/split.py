"""Texts for training and texts held out, parted by their content: a copy of a held-out text is never trained on."""

import hashlib
from collections.abc import Iterable


def split(texts: Iterable[str], share: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """(for training, held out). Where a text goes depends on its words and the seed, not on its neighbours."""
    kept: list[str] = []
    held: list[str] = []
    for text in texts:
        (held if _draw(text, seed) < share else kept).append(text)
    return kept, held


def _draw(text: str, seed: int) -> float:
    words = " ".join(text.split())
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little") / 2**64
