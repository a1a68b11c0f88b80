"""ScalingBench's items as a token shard for verification: the marks say that only the answer's tokens count."""

from pathlib import Path

from whimbrel.errors import FormatError
from whimbrel.eval.conditional import item_ids, read_items
from whimbrel.formats.shards import ShardWriter
from whimbrel.models.tokenizer import Tokenizer


def write_items(items: str | Path, tokenizer: str | Path, path: str | Path, *, vocabulary: str) -> Path:
    """One document per item of a .jsonl (``whimbrel tunnel items`` writes them), in the ids of a model's tokenizer.

    ``tokenizer``: its folder, or tokenizer.json in it; ``vocabulary``: the fingerprint of the shards that the model was
    trained on. Raises FormatError (items, tokenizer), WriteError.
    """
    folder = Path(tokenizer)
    text = Tokenizer.from_folder(folder.parent if folder.is_file() else folder)
    with ShardWriter(path, vocab_size=text.vocab_size, vocabulary=vocabulary, marks=True) as writer:
        for item in read_items(items):
            start, ids = item_ids(lambda text_: text.encode(text_), item)
            if start >= len(ids):
                raise FormatError(f"{items}: the answer of {item.id} adds no token to its instruction")
            writer.add(ids, [0] * start + [1] * (len(ids) - start))
        writer.close()
    return Path(path)
