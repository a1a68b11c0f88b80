"""One input file through the pipeline. What a task writes is decided by its input and the plan alone."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whimbrel.data.document import Document, Drop, Verdict, judge_all
from whimbrel.data.duplicates import signature
from whimbrel.data.reading.fault import Fault, stop
from whimbrel.data.reading.files import Input
from whimbrel.data.reading.read import read
from whimbrel.data.running.plan import Plan, write_whole
from whimbrel.data.running.tally import Tally
from whimbrel.data.writing import Writer, writer
from whimbrel.errors import WriteError

BATCH = 256
"""documents judged together"""
BATCH_CHARACTERS = 1 << 21
EMPTY = "empty"
OFFSET = "offset in its input"
"""kept with documents that wait for deduplication, so that samples can name their place"""

OnBatch = Callable[[int], None]
"""called with the number of documents since the last call"""


def filter_task(plan: Plan, index: int, on_batch: OnBatch = lambda count: None) -> Tally:
    """Read, judge, write: the whole job without deduplication, its first half with it. A task that is done is not repeated.

    Raises FormatError (strict plans), WriteError.
    """
    done = plan.state / f"{index:05d}.filtered.json"
    if done.exists():
        return load(done)
    tally = Tally()
    target = plan.work / f"{index:05d}.jsonl.zst" if plan.dedup else plan.output / plan.name(index)
    signatures: list[NDArray[np.uint64]] = []
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(writer(target, "jsonl.zst" if plan.dedup else plan.format, plan.shard_tokenizer))
        rejected = stack.enter_context(_rejected(plan, f"{index:05d}"))
        before = _tokens(plan)
        for batch in _batches(_documents(plan, plan.inputs[index], tally)):
            for document in _judge(plan, batch, tally, rejected):
                if plan.dedup:
                    document.metadata[OFFSET] = document.offset
                kept.add(document)
                tally.keeps(document)
                if plan.dedup:
                    signatures.append(signature(document.text, plan.dedup))
            on_batch(len(batch))
        tally.tokens = _tokens(plan) - before
    if plan.dedup:
        _save(plan.work / f"{index:05d}.npy", signatures)
    save(done, tally)
    return tally


def write_task(plan: Plan, index: int, copies: NDArray[np.bool_], on_batch: OnBatch = lambda count: None) -> Tally:
    """The second half with deduplication: what waited for it, without the copies. Raises WriteError, FormatError."""
    done = plan.state / f"{index:05d}.written.json"
    if done.exists():
        return load(done)
    tally = Tally()
    path = plan.work / f"{index:05d}.jsonl.zst"
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(writer(plan.output / plan.name(index), plan.format, plan.shard_tokenizer))
        rejected = stack.enter_context(_rejected(plan, f"{index:05d}-copies"))
        waiting = read(Input(str(path), "jsonl", 0), "text")
        for document, copy in zip(waiting, copies.tolist(), strict=True):
            document.file, document.offset = plan.inputs[index].url, document.metadata.pop(OFFSET)
            if copy:
                _drop(document, Drop("duplicate"), tally, rejected)
            else:
                kept.add(document)
                tally.keeps(document)
            on_batch(1)
    save(done, tally)
    return tally


def load(path: Path) -> Tally:
    """A finished task's tally."""
    return Tally(**json.loads(path.read_text()))


def save(path: Path, tally: Tally) -> None:
    """Note that a task is finished. Raises WriteError."""
    try:
        write_whole(
            path, json.dumps(asdict(tally), ensure_ascii=False, sort_keys=True).encode("utf-8", "surrogatepass")
        )
    except OSError as error:
        raise WriteError(f"can't write {path}: {error}") from error


def _save(path: Path, signatures: list[NDArray[np.uint64]]) -> None:
    part = path.with_name(path.name + ".part.npy")
    try:
        np.save(part, np.array(signatures, np.uint64) if signatures else np.zeros((0, 1), np.uint64))
        part.replace(path)
    except OSError as error:
        raise WriteError(f"can't write {path}: {error}") from error


def _documents(plan: Plan, file: Input, tally: Tally) -> Iterator[Document]:
    on_fault: Callable[[Fault], None] = stop if plan.strict else tally.fault
    try:
        yield from read(file, plan.column, on_fault)
    except OSError as error:
        on_fault(Fault(file.url, 0, f"can't be opened: {error}"))


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) >= BATCH or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _judge(plan: Plan, batch: list[Document], tally: Tally, rejected: Writer | None) -> list[Document]:
    """The documents of a batch that all filters keep; each is asked only about what those before it kept."""
    tally.documents += len(batch)
    tally.characters += sum(len(document.text) for document in batch)
    left = []
    for document in batch:
        if document.text.strip():
            left.append(document)
        else:
            _drop(document, Drop(EMPTY), tally, rejected)
    for judge in plan.filters:
        staying = []
        for document, verdict in zip(left, judge_all(judge, left), strict=True):
            _note(document, verdict)
            if isinstance(verdict, Drop):
                _drop(document, verdict, tally, rejected)
            else:
                document.text = document.text if verdict.text is None else verdict.text
                staying.append(document)
        left = staying
    return left


def _note(document: Document, verdict: Verdict) -> None:
    if verdict.notes:
        document.metadata.update(verdict.notes)


def _drop(document: Document, verdict: Drop, tally: Tally, rejected: Writer | None) -> None:
    tally.dropped(document, verdict.reason)
    if rejected is not None:
        document.metadata["reason"] = verdict.reason
        rejected.add(document)


@contextlib.contextmanager
def _rejected(plan: Plan, name: str) -> Iterator[Writer | None]:
    if not plan.keep_rejected:
        yield None
        return
    with writer(plan.output / "rejected" / f"{name}.jsonl.zst", "jsonl.zst") as made:
        yield made


def _tokens(plan: Plan) -> int:
    """Tokens scored so far in this process."""
    return sum(_scored(judge) for judge in plan.filters)


def _scored(judge: Any) -> int:
    classifier = getattr(judge, "classifier", None)
    return 0 if classifier is None else int(classifier.tokens)
