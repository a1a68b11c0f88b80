"""ScalingBench's items as a token shard for verification: the marks say that only the answer's tokens count."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from whimbrel.errors import FormatError
from whimbrel.eval.conditional import item_ids, read_items
from whimbrel.formats.shards import ShardHeader, ShardWriter
from whimbrel.models.tokenizer import Tokenizer


def write_items(
    items: str | Path, tokenizer: str | Path, folder: str | Path, *, like: ShardHeader, longest: int
) -> tuple[Path, list[str]]:
    """One document per item of a .jsonl (``whimbrel tunnel items`` writes them), in the ids of a model's tokenizer.

    ``tokenizer``: its folder, or tokenizer.json in it; ``like``: of shards that the model was trained on; items of more than ``longest`` inputs are left out. Returns the shard, named by what is in it so that
    other items are never taken for these, and the ids of what was left out. Raises FormatError (items, tokenizer, none
    that fits), WriteError.
    """
    place = Path(tokenizer)
    text = Tokenizer.from_folder(place.parent if place.is_file() else place)
    if text.vocab_size != like.vocab_size:
        raise FormatError(
            f"{tokenizer}: {text.vocab_size} entries, the model's shards have {like.vocab_size}; give the model's own tokenizer"
        )
    documents, left_out = [], []
    for item in read_items(items):
        start, ids = item_ids(text.encode, item)
        if start >= len(ids):
            raise FormatError(f"{items}: the answer of {item.id} adds no token to its instruction")
        if len(ids) - 1 > longest:
            left_out.append(item.id)
        else:
            documents.append((start, ids))
    if not documents:
        raise FormatError(
            f"{items}: none of {len(left_out)} items fits {longest} tokens; measure with a longer sequence"
        )
    path = Path(folder) / f"{Path(items).stem}-{_digest(documents)}.shard"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ShardWriter(path, vocab_size=like.vocab_size, vocabulary=like.vocabulary, marks=True) as writer:
        for start, ids in documents:
            writer.add(ids, [0] * start + [1] * (len(ids) - start))
        writer.close()
    return path, left_out


def _digest(documents: Sequence[tuple[int, Sequence[int]]]) -> str:
    return hashlib.blake2b(repr(documents).encode(), digest_size=4).hexdigest()
