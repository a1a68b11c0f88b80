"""Conversations become a token shard whose marks say what to learn: the assistant's turns, and nothing else."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from whimbrel.errors import FormatError
from whimbrel.formats.shards import ShardHeader, ShardWriter
from whimbrel.models.chat import ChatTemplate
from whimbrel.models.tokenizer import Tokenizer

Message = Mapping[str, Any]


def conversation_ids(
    messages: Sequence[Message], tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[list[int], list[int]]:
    """Ids of a conversation and, for each, 1 where the assistant speaks (its end-of-turn token included).

    Every turn is tokenized by itself, as it is when a prompt ends before it. Raises FormatError where the template
    changes earlier turns when later ones follow, so that no border can be told; and for nobody to learn from.
    """
    whole = template.render(messages, add_generation_prompt=False)
    cuts: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message.get("role") == "assistant":
            before = template.render(messages[:index], add_generation_prompt=True)
            through = template.render(messages[: index + 1], add_generation_prompt=False)
            if not (whole.startswith(through) and through.startswith(before)):
                raise FormatError(
                    f"the chat template does not keep turn {index + 1} as it was written; SFT on such a template needs "
                    "conversations of one answer each"
                )
            cuts.append((len(before), len(through)))
    if not cuts:
        raise FormatError("a conversation without an assistant's turn teaches nothing")
    ids: list[int] = []
    marks: list[int] = []
    at = 0
    for first, end in [*cuts, (len(whole), len(whole))]:
        for text, mark in ((whole[at:first], 0), (whole[first:end], 1)):
            part = tokenizer.encode(text, add_special=False, parse_special=True) if text else []
            ids += part
            marks += [mark] * len(part)
        at = end
    return ids, marks


def write_conversations(
    conversations: Iterable[Sequence[Message]], path: str | Path, tokenizer: Tokenizer, template: ChatTemplate
) -> ShardHeader:
    """A shard with marks. Errors name the conversation by its number."""
    with ShardWriter(
        path, vocab_size=tokenizer.vocab_size, vocabulary=template_fingerprint(tokenizer, template), marks=True
    ) as writer:
        for number, messages in enumerate(conversations, 1):
            try:
                ids, marks = conversation_ids(messages, tokenizer, template)
            except (FormatError, ValueError) as error:
                raise FormatError(f"conversation {number}: {error}") from None
            writer.add(ids, marks)
        return writer.close()


def read_conversations(path: str | Path) -> Iterator[Sequence[Message]]:
    """Lines of a .jsonl or .jsonl.gz: ``{"messages": [{"role": ..., "content": ...}, ...]}``. Raises FormatError."""
    file = Path(path)
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    messages = json.loads(line)["messages"]
                    if not all(isinstance(message["role"], str) for message in messages) or not messages:
                        raise ValueError
                except (ValueError, KeyError, TypeError):
                    raise FormatError(
                        f'{file}, line {number}: {{"messages": [{{"role": ..., "content": ...}}]}} was expected'
                    ) from None
                yield messages
    except OSError as error:
        raise FormatError(f"{file}: can't be read: {error.strerror or error}") from None


def template_fingerprint(tokenizer: Tokenizer, template: ChatTemplate) -> str:
    """Of what a text becomes: some ids of the tokenizer and the template's source."""
    probe = tokenizer.encode("The quick brown fox, 0123456789; naïve Ω 你好\n\t{}", add_special=True)
    return blake2b(f"{tokenizer.vocab_size} {probe} {template.source}".encode(), digest_size=8).hexdigest()
