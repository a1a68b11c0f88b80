"""Text to token shards for a sweep: a small byte-level BPE of its own, and a held-out part that no run trains on."""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from whimbrel.errors import FormatError
from whimbrel.formats.shards import ShardWriter

END = "<|end|>"
EVERY = 20
"""Every so many-th document is held out."""


def documents(path: str | Path) -> Iterator[str]:
    """The ``text`` of each line of .jsonl or .jsonl.gz, or a whole text file. Raises FormatError."""
    path = Path(path)
    try:
        if ".jsonl" not in path.name:
            yield path.read_text(encoding="utf-8")
            return
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)["text"]
                except (ValueError, KeyError, TypeError):
                    raise FormatError(f"{path}, line {number}: an object with a `text` was expected") from None
    except OSError as error:
        raise FormatError(f"{path}: the text can't be read: {error}") from None


def prepare(text: str | Path, folder: str | Path, *, vocab_size: int = 2048, held_out_tokens: int = 1 << 15) -> Path:
    """Train the BPE on the text and write ``tokenizer.json``, ``train.shard`` and ``held_out.shard`` into ``folder``.

    What is there from the same text and vocabulary is kept. Raises FormatError for too little text (held out are whole
    documents, every 20th, up to about ``held_out_tokens``).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = Path(folder)
    texts = list(documents(text))
    digest = hashlib.sha256("\0".join([str(vocab_size), *texts]).encode()).hexdigest()[:16]
    tokenizer_file = folder / "tokenizer.json"
    if all((folder / name).exists() for name in ("train.shard", "held_out.shard", f"{digest}.made")):
        return folder
    if len(texts) < EVERY:
        raise FormatError(
            f"{text}: {len(texts)} documents, at least {EVERY} were expected; a .jsonl has one in each line"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.save(str(tokenizer_file))
    end, size = tokenizer.token_to_id(END), tokenizer.get_vocab_size()
    assert end is not None
    kept_out = 0
    with (
        ShardWriter(folder / "train.shard", vocab_size=size, vocabulary=digest) as train,
        ShardWriter(folder / "held_out.shard", vocab_size=size, vocabulary=digest) as held_out,
    ):
        for number, encoding in enumerate(tokenizer.encode_batch(texts)):
            ids = [*encoding.ids, end]
            aside = number % EVERY == 0 and kept_out < held_out_tokens
            kept_out += len(ids) if aside else 0
            (held_out if aside else train).add(ids)
    (folder / f"{digest}.made").touch()
    return folder
