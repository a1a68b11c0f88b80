"""The same text twice: exact, and nearly by MinHash. Which copy stays depends on the order of the inputs alone.

Near duplicates as datatrove finds them: MinHash over 5-grams of words, 14 bands of 8 values; two documents that agree in a
whole band are taken for copies, and so are copies of copies. Of each group the first document stays. A signature is 15
numbers of 64 bits; while a corpus is compared it takes about 250 bytes of memory per document.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.errors import InvalidParameter, MissingExtra

METHODS = ("exact", "minhash")
BANDS, ROWS, SHINGLE, SEED = 14, 8, 5, 1


def signature(text: str, method: str) -> NDArray[np.uint64]:
    """A document's signature: uint64 [1] or, for minhash, [15]. The first is the hash of its words; white space is nothing.

    Raises MissingExtra without rensa (minhash), InvalidParameter for an unknown method.
    """
    if method not in METHODS:
        raise InvalidParameter(f"dedup={method} is impossible; want one of {', '.join(METHODS)}")
    words = text.split()
    digest = hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    exact = np.frombuffer(digest, np.uint64)
    if method == "exact":
        return exact.copy()
    lowered = [word.lower() for word in words]
    grams = [" ".join(lowered[at : at + SHINGLE]) for at in range(max(len(words) - SHINGLE + 1, 1))]
    sketch = _rensa().RMinHash(num_perm=BANDS * ROWS, seed=SEED)
    sketch.update(grams)
    values = np.array(sketch.digest(), np.uint32).reshape(BANDS, ROWS)
    bands = [hashlib.blake2b(band.tobytes(), digest_size=8).digest() for band in values]
    return np.concatenate([exact, np.frombuffer(b"".join(bands), np.uint64)])


def copies(signatures: Sequence[NDArray[np.uint64]]) -> list[NDArray[np.bool_]]:
    """For each shard's signatures [documents, 1 or 15]: which documents are copies of an earlier one, here or in a shard before."""
    table = np.concatenate([shard for shard in signatures if len(shard)]) if any(map(len, signatures)) else None
    if table is None:
        return [np.zeros(0, np.bool_) for _ in signatures]
    first = np.arange(len(table))
    for column in table.T:
        order = np.argsort(column, kind="stable")
        same = np.flatnonzero(column[order][1:] == column[order][:-1])
        for one, other in zip(order[same].tolist(), order[same + 1].tolist(), strict=True):
            _join(first, one, other)
    roots = np.array([_root(first, index) for index in range(len(table))])
    return np.split(roots != np.arange(len(table)), np.cumsum([len(shard) for shard in signatures])[:-1])


def _root(first: NDArray[np.int64], index: int) -> int:
    while (parent := int(first[index])) != index:
        first[index] = first[parent]
        index = int(first[index])
    return index


def _join(first: NDArray[np.int64], one: int, other: int) -> None:
    low, high = sorted((_root(first, one), _root(first, other)))
    first[high] = low


def _rensa() -> Any:
    try:
        import rensa
    except ImportError as error:
        raise MissingExtra("MinHash needs rensa: `pip install whimbrel[data]`") from error
    return rensa
