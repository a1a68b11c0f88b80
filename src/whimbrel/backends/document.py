"""Document: one or more documents that were read before, asked without reading them again.

The first one's blocks serve as they lie on the disk. Those of further documents have to move behind it: they are copied
to memory with their keys turned (``engine.moving``), and what remains of each, up to 63 tokens, is read with the
question. Documents that were read apart don't see each other; only question and answer see all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.backends.behind import text_behind
from whimbrel.backends.dialect import Tools
from whimbrel.backends.passages import DocumentMap, Span
from whimbrel.backends.reading import LEAST_ROOM, native_executor
from whimbrel.backends.results import Completion
from whimbrel.backends.stored import StoredDocument, differences
from whimbrel.backends.stream import Stream
from whimbrel.backends.turn import SEPARATOR, user_turn
from whimbrel.engine.blocks import ROOT
from whimbrel.errors import PromptTooLong, UsageError

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of a prompt that are a piece of a document: ``count`` from ``start`` on are its ids from ``first`` on."""

    document: int
    start: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class DocumentPrompt:
    """A question behind documents, as ids, and where each document lies in it."""

    ids: tuple[int, ...]
    segments: tuple[Segment, ...]


class Document:
    """Made by ``LLM.open_document``. A context manager; ``close`` takes the documents out of the cache."""

    def __init__(self, llm: "LLM", parts: Sequence[StoredDocument]) -> None:
        """``parts`` fit the model and each other."""
        self.parts = tuple(parts)
        self.llm = llm
        self._executor = native_executor(llm)
        self._keys: list[bytes] = []
        self._closed = False
        self._attach()

    @property
    def name(self) -> str:
        """Names of the documents."""
        return ", ".join(part.name for part in self.parts)

    @property
    def names(self) -> list[str]:
        """Names that tell the documents apart, in their order."""
        names = [part.name for part in self.parts]
        return [
            name if names.count(name) == 1 else str(part.path) for name, part in zip(names, self.parts, strict=True)
        ]

    @property
    def tokens(self) -> int:
        """Tokens that a prompt has before its question."""
        return sum(len(part.ids) for part in self.parts)

    @property
    def cached_tokens(self) -> int:
        """Of these, tokens that are not read again."""
        return sum(len(part.block_ids) for part in self.parts)

    @property
    def system(self) -> str | None:
        """The system message that was read before the document."""
        return self.parts[0].system

    def stream(self, question: str, *, template: Mapping[str, Any] | None = None, **options: Any) -> Stream:
        """The answer piece by piece; options as for ``LLM.stream``, but for ``overflow``.

        One question alone. ``LLM.stream(messages, document=...)`` is a conversation.
        """
        self.check_open()
        return self.llm.stream_ids(self.prompt(question, template).ids, overflow="error", conversation=True, **options)

    def check_open(self) -> None:
        """Raises ``UsageError`` after ``close``."""
        if self._closed:
            raise UsageError("this document has been closed; open it again")

    def ask(self, question: str, *, passages: int = 0, **options: Any) -> Completion:
        """The whole answer at once; options as for ``LLM.stream``, but for ``overflow``.

        ``passages``: how many of the blocks that the answer attended to most come with it, as text.
        """
        if not passages:
            return self.stream(question, **options).drain()
        completion = self.stream(question, block_mass=True, **options).drain()
        return self.map_of(completion).with_passages(completion, passages)

    def map(self, prompt: DocumentPrompt) -> DocumentMap:
        """Where the documents lie in a prompt, for what an answer read of them."""
        return DocumentMap.of(self.spans(prompt), self.texts(), len(prompt.ids), self.llm.capabilities.sparse)

    def map_of(self, completion: Completion) -> DocumentMap:
        """The same of an answer to any prompt that begins with these documents."""
        return self.map(self.prompt_of(completion))

    def prompt_of(self, completion: Completion) -> DocumentPrompt:
        """The prompt that an answer was given to."""
        return DocumentPrompt(completion.prompt_token_ids, self.head.segments)

    def prompt(self, question: str, template: Mapping[str, Any] | None = None) -> DocumentPrompt:
        """Ids of a question behind the documents. Raises ``UsageError`` for an empty question."""
        if not question:
            raise UsageError("the question is empty; write something")
        after = user_turn(self.llm, self.system, template).after
        return DocumentPrompt((*self.head.ids, *self.text_ids(f"{SEPARATOR}{question}"), *after), self.head.segments)

    @cached_property
    def head(self) -> DocumentPrompt:
        """What comes before every question: the blocks of all documents, then what remains of each."""
        ids: list[int] = []
        segments = []
        for index, part in enumerate(self.parts):
            segments.append(Segment(index, len(ids), 0, len(part.block_ids)))
            ids += part.block_ids.tolist()
        for index, part in enumerate(self.parts):
            if len(self.parts) > 1:
                title = f"{SEPARATOR}Document {part.name}, its end:\n\n" if len(part.tail_ids) else ""
                ids += self.text_ids(title)
            segments.append(Segment(index, len(ids), len(part.block_ids), len(part.tail_ids)))
            ids += part.tail_ids.tolist()
        return DocumentPrompt(tuple(ids), tuple(segment for segment in segments if segment.count))

    @cached_property
    def key(self) -> str:
        """Stands for the documents' text in the text of a conversation; another one for other documents."""
        return blake2b(np.array(self.head.ids, np.int32).data, digest_size=16).hexdigest()

    @property
    def mark(self) -> str:
        """Stands for the documents in a rendered conversation."""
        return f"DOCUMENT-{self.key}"

    def rendered(
        self, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any] | None = None, tools: Tools = ()
    ) -> str:
        """A conversation in which ``mark`` stands for the documents, before what the user says first; for ``ids_of``.

        They were read behind the template's usual beginning. Another system message and the descriptions of tools go
        behind them, before the question, since what stands before a document can't change once it is read.
        Raises ``UsageError`` as ``LLM.render``, without a message of the user, and for one of the assistant before it.
        """
        self.check_open()
        return text_behind(self, messages, template, tools)

    def ids_of(self, text: str) -> list[int]:
        """Ids of a text that ``rendered`` gave. Before the mark they are those that were read."""
        after = text.partition(self.mark)[2]
        return [*self.head.ids, *self.llm.tokenize(after, add_special=False, parse_special=True)]

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text in which nothing is a control token."""
        return self.llm.tokenize(text, add_special=False) if text else []

    def passage(self, block: int) -> tuple[int, int]:
        """Characters ``[start, end)`` of the first document in block ``block`` of its prompt; empty behind its end."""
        return self.parts[0].passage(block)

    def spans(self, prompt: DocumentPrompt) -> list[Span]:
        """Which characters of which document each block of a prompt holds, in the order of the prompt."""
        return sorted(self._spans(prompt), key=lambda span: span.block)

    def texts(self) -> dict[str, str]:
        """The documents' texts by name, as ``Span`` counts their characters."""
        return {name: part.text for name, part in zip(self.names, self.parts, strict=True)}

    def close(self) -> None:
        """Take the documents out of the cache. Idempotent. Raises ``UsageError`` while an answer reads them."""
        if self._keys and not self._executor.is_closed:
            with self._executor.exclusive() as engine:
                while self._keys:
                    engine.documents.detach(self._keys[-1])
                    self._keys.pop()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside

    def _attach(self) -> None:
        with self._executor.exclusive() as engine:
            parent, before = ROOT, 0
            last = np.empty(0, np.uint8)
            for part in self.parts:
                if not part.num_blocks:
                    continue
                data, codes, scales, forget = part.file.data, part.file.codes, part.file.scales, part.file.forget_pages
                if before:
                    mover = engine.documents.mover(before * BLOCK_SIZE)
                    data, codes, scales = mover.move(data, codes, scales, part.file.layout, last)
                    forget()
                parent = engine.documents.attach(
                    part.block_ids, data, codes, scales, parent=parent, forget=None if before else forget
                )
                self._keys.append(parent)
                before, last = before + part.num_blocks, data[-part.file.layout.block_bytes :]

    def _spans(self, prompt: DocumentPrompt) -> Iterator[Span]:
        names = self.names
        for segment in prompt.segments:
            end = segment.start + segment.count
            for block in range(segment.start // BLOCK_SIZE, -(-end // BLOCK_SIZE)):
                first, last = max(segment.start, block * BLOCK_SIZE), min(end, (block + 1) * BLOCK_SIZE)
                shift = segment.first - segment.start
                start, stop = self.parts[segment.document].characters(first + shift, last + shift)
                if stop > start:
                    yield Span(block, names[segment.document], start, stop)


def open_document(llm: "LLM", paths: Sequence[str | Path], *, stale: bool = False) -> Document:
    """See ``LLM.open_document``."""
    executor = native_executor(llm)
    parts = [StoredDocument(path) for path in paths]
    with executor.exclusive() as engine:
        meta = {
            "format": engine.documents.format,
            "model": {"fingerprint": engine.documents.model_fingerprint},
        }
    for part in parts:
        part.file.read_ahead()
        _check_fits(part, meta, llm)
        if not stale:
            part.refuse_if_changed()
    if len({part.system for part in parts}) > 1:
        raise UsageError("these documents were read with different system messages; read them with the same one")
    _check_room(parts, llm.context)
    return Document(llm, parts)


def settings_for(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Options of ``LLM`` under which these documents were read, for a cache that holds a question only.

    Several documents need room for what the first one's settings say and for each other: what is moved lies beside the
    cache. Raises as ``StoredDocument`` does, ``UsageError`` where they were read under different settings.
    """
    parts = [StoredDocument(path) for path in paths]
    for part in parts:
        part.file.read_ahead()  # while the model is being loaded
    for part in parts[1:]:
        _check_alike(parts[0], part)
    settings = parts[0].settings
    attention = (
        {"attention": "dense"} if settings["sparse"] is None else {"attention": "sparse", "sparse": settings["sparse"]}
    )
    options = {"context": settings["context"], "kv_dtype": settings["kv_dtype"], **attention}
    if settings["weights"] is not None:
        options["weights"] = settings["weights"]
    return {**options, "mapped_blocks": sum(part.num_blocks for part in parts), "max_sequences": 1}


def _check_alike(one: StoredDocument, other: StoredDocument) -> None:
    wrong = differences({**one.meta, "source": {}, "prompt": {}}, {**other.meta, "source": {}, "prompt": {}})
    if wrong:
        raise UsageError(f"{one.path} and {other.path} were read differently ({', '.join(wrong)}); read both alike")


def _check_fits(part: StoredDocument, meta: Mapping[str, Any], llm: "LLM") -> None:
    """Raises ``UsageError`` where a document was read by another model, or under other settings."""
    wrong = differences(
        {"format": part.meta["format"], "model": {"fingerprint": part.model["fingerprint"]}},
        {"format": meta["format"], "model": meta["model"]},
    )
    if "another model" in wrong:
        named = part.model.get("name") or part.model["path"]
        raise UsageError(
            f"{part.path} was read by another model or quantization ({named}) than this one ({llm.source}): "
            f"ask it with -m {named}, or read the document again"
        )
    if wrong:
        settings = {**part.settings, "sparse": "sparse" if part.settings["sparse"] else "dense"}
        raise UsageError(
            f"{part.path} was read with other settings ({', '.join(wrong)}): load the model with context="
            f"{settings['context']}, kv_dtype={settings['kv_dtype']!r}, attention={settings['sparse']!r}"
        )


def _check_room(parts: Sequence[StoredDocument], context: int) -> None:
    needed = sum(len(part.ids) for part in parts) + LEAST_ROOM
    if needed > context:
        names = ", ".join(str(part.path) for part in parts)
        raise PromptTooLong(
            f"{names} have {needed - LEAST_ROOM:,} tokens and the context holds {context:,}, of which a question and its "
            f"answer need {LEAST_ROOM}; give it more with --context {-(-(needed + 768) // 1024)}k, or ask fewer at once"
        )
