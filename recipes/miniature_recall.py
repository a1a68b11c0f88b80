"""The miniature's supervised task: look up a word in a list, near by or behind a thousand words of a speech.

User: river: nation; stone: treaty; ...        (pairs), here perhaps a passage from a speech
river?                                         the first question
Assistant: nation                              learned; what stands behind a key somewhere above
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import torch

from whimbrel.formats.shards import open_shards
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.config import ModelConfig
from whimbrel.models.rope import rope_table
from whimbrel.models.tokenizer import Tokenizer
from whimbrel.train import network
from whimbrel.train.batches import IGNORED, Batches
from whimbrel.train.ops import training_ops
from whimbrel.train.sft import Message, write_conversations

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}User: {{ message.content }}\n"
    "{% else %}Assistant: {{ message.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
WORDS = 96
"""Keys and values; a quarter of the keys is never trained on"""
PAIRS, QUESTIONS = 6, 5


@dataclass(frozen=True, slots=True)
class Words:
    """Words that are one token each behind a space."""

    keys: tuple[str, ...]
    new_keys: tuple[str, ...]
    """never in a trained conversation"""
    values: tuple[str, ...]

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> "Words":
        """The vocabulary's earliest, which are its commonest, of five letters and more."""
        ranked = sorted(backend.get_vocab().items(), key=lambda item: item[1])
        found = [name[1:] for name, _ in ranked if name[0] == "Ġ" and name[1:].isascii() and name[1:].islower()]
        chosen = [word for word in found if len(word) >= 5][:WORDS]
        half = len(chosen) // 2
        return cls(tuple(chosen[: half * 3 // 4]), tuple(chosen[half * 3 // 4 : half]), tuple(chosen[half:]))


def conversations(
    number: int, keys: Sequence[str], values: Sequence[str], passages: Sequence[str], rng: random.Random
) -> Iterator[list[Message]]:
    """Conversations of ``QUESTIONS`` questions each; one passage stands between pairs and questions."""
    for index in range(number):
        chosen = rng.sample(keys, PAIRS)
        pairs = {key: rng.choice(values) for key in chosen}
        listed = "; ".join(f"{key}: {value}" for key, value in pairs.items())
        passage = passages[index % len(passages)]
        asked = rng.sample(chosen, QUESTIONS)
        first = "\n".join(part for part in (f"{listed}.", passage, f"{asked[0]}?") if part)
        talk: list[Message] = []
        for question, key in zip([first, *(f"{key}?" for key in asked[1:])], asked, strict=True):
            talk += [{"role": "user", "content": question}, {"role": "assistant", "content": pairs[key]}]
        yield talk


def passages(corpus: Path, shard: str, lengths: Sequence[int], rng: random.Random) -> list[str]:
    """Text of a shard, one piece of so many tokens for each length; 0 gives an empty one."""
    backend = tokenizers.Tokenizer.from_file(str(corpus / "tokenizer.json"))
    (reader,) = open_shards(corpus / shard)
    found = []
    for length in lengths:
        first = rng.randrange(len(reader.tokens) - length)
        found.append(backend.decode(reader.tokens[first : first + length].tolist()).replace("\n", " "))
    return found


def write_task(corpus: Path, folder: Path, *, train: int, test: int, far: int) -> None:
    """``train.shard`` (three of four conversations without a passage), and near, far and new (keys) for measuring."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = tokenizers.Tokenizer.from_file(str(corpus / "tokenizer.json"))
    tokenizer, template = Tokenizer(backend), ChatTemplate(TEMPLATE)
    words, rng = Words.of(backend), random.Random(0)
    between = [0 if index % 4 else rng.randrange(16, far) for index in range(400)]
    for name, keys, lengths, count, source in (
        ("train", words.keys, between, train, "train.shard"),
        ("near", words.keys, [0], test, "held_out.shard"),
        ("new", words.new_keys, [0], test, "held_out.shard"),
        ("far", words.keys, [far] * 50, test, "held_out.shard"),
    ):
        texts = passages(corpus, source, lengths, rng)
        talks = conversations(count, keys, words.values, texts, rng)
        write_conversations(talks, folder / f"{name}.shard", tokenizer, template)


@torch.no_grad()
def recall(config: ModelConfig, tensors: dict[str, torch.Tensor], shard: Path, *, sequence: int, end: int) -> float:
    """The share of answers whose word is the model's first choice; earlier answers of a conversation are the right ones."""
    batches = Batches(shard, sequence=sequence, rows=1)
    ops, rope = training_ops(), rope_table(config, sequence)
    right = asked = 0
    for step in range(batches.row_count):
        batch = batches.batch(step)
        rows = np.flatnonzero((batch.targets != IGNORED) & (batch.targets != end))
        hidden = network.packed_hidden_states(config, tensors, ops, rope, batch)
        best = network.scores(config, tensors, ops, hidden[rows]).argmax(-1).cpu().numpy()
        right += int((best == batch.targets[rows]).sum())
        asked += len(rows)
    return right / asked
