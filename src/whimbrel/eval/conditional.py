"""Conditional loss: how surprised is a model by a worked answer, given the question? The measure of ScalingBench.

Source: MiniCPM4 (2025), section 3.3. An item is an instruction and the answer to it, reasoning first, label last; the
loss is the mean negative log-likelihood of the answer's tokens. One label token would be a noisy measure; a whole
reasoning is not. Models of different vocabularies are compared per byte of the answers.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whimbrel.backends.executor import Executor
from whimbrel.errors import FormatError, PromptTooLong, UsageError

Encode = Callable[[str], Sequence[int]]
"""Text to ids, begin token included where the model wants one"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionalItem:
    """What a model reads, and what it should find likely behind it."""

    id: str
    instruction: str
    reasoning: str
    label: str
    """the right answer, in its final form"""

    @property
    def answer(self) -> str:
        """Reasoning and label, as scored."""
        return f"{self.reasoning}\n{self.label}" if self.reasoning else self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemLoss:
    """One item's share."""

    id: str
    nats: float
    tokens: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionalLoss:
    """Over all items."""

    per_token: float
    """nats; compares models of one vocabulary"""
    bits_per_byte: float
    """compares any"""
    standard_error: float
    """of ``per_token``, over items"""
    tokens: int
    items: tuple[ItemLoss, ...]
    left_out: tuple[str, ...]
    """ids of items longer than the executor's context"""


def read_items(path: str | Path) -> list[ConditionalItem]:
    """A .jsonl of items. Raises FormatError, naming the line."""
    items, seen = [], set[str]()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: the items can't be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
            item = ConditionalItem(**{key: str(found[key]) for key in ("id", "instruction", "reasoning", "label")})
        except (ValueError, KeyError, TypeError):
            raise FormatError(
                f"{path}, line {number}: id, instruction, reasoning and label were expected; "
                "`whimbrel tunnel items` writes them"
            ) from None
        if item.id in seen:
            raise FormatError(f"{path}, line {number}: item {item.id} is there twice")
        seen.add(item.id)
        items.append(item)
    return items


def conditional_loss(
    executor: Executor,
    encode: Encode,
    items: Sequence[ConditionalItem],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ConditionalLoss:
    """Score all items. Raises UsageError where no item fits the context (or there is none)."""
    losses, left_out = [], []
    for number, item in enumerate(items, 1):
        start, ids = item_ids(encode, item)
        try:
            if len(ids) > executor.capabilities.max_context:
                raise PromptTooLong(f"{len(ids)} tokens")
            logprobs = executor.score(ids)[start - 1 :]
        except PromptTooLong:
            left_out.append(item.id)
            continue
        size = len(item.answer.encode())
        losses.append(ItemLoss(id=item.id, nats=-math.fsum(logprobs), tokens=len(logprobs), bytes=size))
        progress(number, len(items))
    if not losses:
        raise UsageError(
            f"none of {len(items)} items fits the context of {executor.capabilities.max_context} tokens; give a larger one"
        )
    return _total(losses, left_out)


def item_ids(encode: Encode, item: ConditionalItem) -> tuple[int, list[int]]:
    """Ids of the whole, and where the answer's begin: behind what the instruction alone has in common with it."""
    prompt, whole = encode(item.instruction + "\n"), list(encode(f"{item.instruction}\n{item.answer}"))
    start = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    return max(1, start), whole


def _total(losses: Sequence[ItemLoss], left_out: Sequence[str]) -> ConditionalLoss:
    nats, tokens = math.fsum(item.nats for item in losses), sum(item.tokens for item in losses)
    mean, count = nats / tokens, len(losses)
    squares = math.fsum((item.nats - mean * item.tokens) ** 2 for item in losses)
    error = math.sqrt(squares / max(1, count - 1) / count) / (tokens / count)  # of a ratio of two sums
    return ConditionalLoss(
        per_token=mean,
        bits_per_byte=nats / math.log(2) / sum(item.bytes for item in losses),
        standard_error=error,
        tokens=tokens,
        items=tuple(losses),
        left_out=tuple(left_out),
    )
