"""The miniature's supervised task: from which quarter of the speeches, by date, is a passage?

    User: ...the passage...
    Which quarter is it from?
    Assistant: second                              learned; the passage is not

Every fifth speech is kept from it; its passages, short and long, measure what was learned. The corpus must be in order of date.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from miniature_reading import Reading

from whimbrel.models.chat import ChatTemplate
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.train.batches import IGNORED
from whimbrel.train.sft import Message, write_conversations

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}User: {{ message.content }}\n"
    "{% else %}Assistant: {{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
QUARTERS = ("first", "second", "third", "last")
QUESTION = "Which quarter is it from?"
EVERY = 5
"""Every so many-th speech measures, and is not learned from."""

Speech = tuple[str, list[int]]
"""its quarter, and its tokens"""


def write_task(text: Path, corpus: Path, folder: Path, *, train: int, test: int, long: int) -> None:
    """``train.shard`` (passages of 32 tokens up to ``long``), ``short.shard`` (of 64 tokens) and ``long.shard``."""
    if (folder / "long.shard").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    backend = tokenizers.Tokenizer.from_file(str(corpus / "tokenizer.json"))
    tokenizer, template, rng = Tokenizer(backend), ChatTemplate(TEMPLATE), random.Random(0)
    with text.open(encoding="utf-8") as lines:
        encoded = [encoding.ids for encoding in backend.encode_batch([json.loads(line)["text"] for line in lines])]
    speeches = [(QUARTERS[4 * index // len(encoded)], ids) for index, ids in enumerate(encoded)]
    learned = [speech for index, speech in enumerate(speeches) if index % EVERY]
    others = speeches[::EVERY]
    for name, chosen, number, lengths in (
        ("short", others, test, (64, 64)),
        ("train", learned, train, (32, long)),
        ("long", others, test, (long, long)),
    ):
        talks = conversations(backend, chosen, number, lengths, rng)
        write_conversations(talks, folder / f"{name}.shard", tokenizer, template)


def conversations(
    backend: tokenizers.Tokenizer, speeches: Sequence[Speech], number: int, lengths: tuple[int, int], rng: random.Random
) -> Iterator[list[Message]]:
    """One question each; quarters in turn, lengths even on a logarithmic scale."""
    by_quarter = [[speech for speech in speeches if speech[0] == quarter] for quarter in QUARTERS]
    for index in range(number):
        quarter, ids = rng.choice(by_quarter[index % len(QUARTERS)])
        length = round(lengths[0] * (lengths[1] / lengths[0]) ** rng.random())
        first = rng.randrange(max(1, len(ids) - length))
        passage = backend.decode(ids[first : first + length]).replace("\n", " ")
        yield [{"role": "user", "content": f"{passage}\n{QUESTION}"}, {"role": "assistant", "content": quarter}]


def right_answers(reading: Reading, shard: Path) -> float:
    """The share of answers whose first token is the model's first choice among all tokens."""
    right = asked = 0
    for batch in reading.rows(shard):
        learned = batch.targets != IGNORED
        rows = np.flatnonzero(learned & ~np.roll(learned, 1))
        right += int((reading.choices(reading.hidden(batch)[rows]) == batch.targets[rows]).sum())
        asked += len(rows)
    return right / asked
