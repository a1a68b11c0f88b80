"""Record: what one item gave; and ``run``, which asks a model one item after the other."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from whimbrel.attention.keys import KeyCount, count_keys
from whimbrel.backends.llm import LLM
from whimbrel.backends.results import Completion
from whimbrel.eval.task import Item

if TYPE_CHECKING:
    from whimbrel.eval.journal import Journal

Progress = Callable[[int, int], None]
"""Gets the items that are done, and all items."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One item, asked and scored."""

    id: str
    task: str
    length: int
    score: float
    """0 ... 1"""
    expected: tuple[str, ...]
    answer: str
    prompt_tokens: int
    completion_tokens: int
    visible_keys: int
    """keys before each token, over all tokens read and written (of one layer and KV head)"""
    attended_keys: int
    """of these, those that it attended"""
    last_sparsity: float
    """share of keys that the prompt's last token did not attend"""
    seconds: float
    """wall clock, beside whatever else ran"""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def run(
    llm: LLM, items: Sequence[Item], journal: "Journal", *, progress: Progress = lambda done, total: None
) -> list[Record]:
    """Records of all items, in their order; those that the journal has are not asked again.

    Every answer is greedy, without penalties, whatever the model's own generation config says. Raises ``PromptTooLong``
    where an item doesn't fit the context. An interruption loses the item at hand only.
    """
    records = []
    for done, item in enumerate(items):
        progress(done, len(items))
        record = journal.get(item.id)
        if record is None:
            record = ask(llm, item)
            journal.add(record)
        records.append(record)
    progress(len(items), len(items))
    return records


def ask(llm: LLM, item: Item) -> Record:
    """The record of one item."""
    question = item.make()
    began = time.perf_counter()
    answer = llm.stream_ids(
        question.token_ids, max_tokens=item.max_tokens, overflow="error", temperature=0.0, repetition_penalty=1.0
    ).drain()
    seconds = time.perf_counter() - began
    keys, read = keys_of(llm, answer), len(question.token_ids)
    return Record(
        id=item.id,
        task=item.task,
        length=item.length,
        score=item.score(answer.text, question.answers),
        expected=question.answers,
        answer=answer.text,
        prompt_tokens=read,
        completion_tokens=len(answer.token_ids),
        visible_keys=keys.visible,
        attended_keys=keys.attended,
        last_sparsity=count_keys(read - 1, read, llm.capabilities.sparse).sparsity,
        seconds=round(seconds, 3),
        metadata=question.metadata,
    )


def keys_of(llm: LLM, answer: Completion) -> KeyCount:
    """Keys of all tokens of prompt and answer: what the backend counted, and those of tokens that its cache had.

    A backend that counts nothing attends to every key, or to those that its constants and the positions say.
    """
    usage, sparse = answer.usage, llm.capabilities.sparse
    counted = usage.prompt_keys + usage.completion_keys
    if not counted.visible:
        return count_keys(0, usage.prompt_tokens + max(0, usage.completion_tokens - 1), sparse)
    return count_keys(0, usage.cached_tokens, sparse) + counted


def mean_score(records: Iterable[Record]) -> float | None:
    """Mean of the scores in per cent; None of nothing."""
    scores = [record.score for record in records]
    return 100 * sum(scores) / len(scores) if scores else None
