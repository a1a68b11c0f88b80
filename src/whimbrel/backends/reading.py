"""Reading a document once: its text goes through the model, and the blocks of the cache into a ``.kv`` file.

While it is read the file is ``NAME.kv.part``. Whatever stops the reading, the same call goes on behind the last block
that the disk kept, and the file becomes the same to the byte.
"""

import logging
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.backends.executor import Request, SamplingParams
from whimbrel.backends.stored import StoredDocument, describe_source, differences
from whimbrel.backends.turn import user_turn
from whimbrel.engine.blocks import ROOT
from whimbrel.engine.document import document_keys
from whimbrel.errors import DoesNotFit, PromptTooLong, UnsupportedCapability, UsageError, WriteError
from whimbrel.formats.document import document_text, read_bytes
from whimbrel.formats.kv_file import KVHeader, is_kv_file
from whimbrel.formats.kv_layout import KVLayout
from whimbrel.formats.kv_writer import KVWriter, part_of

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM
    from whimbrel.backends.native import NativeExecutor

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with tokens read so far and in all."""

COMMIT_SECONDS = 2.0
"""Between two commits: an fsync of 25 MB takes 20 to 200 ms, and this much reading is lost at worst."""
LEAST_ROOM = 256
"""Tokens of the context that a question and its answer need."""
TURN_BLOCKS = 16
"""Blocks that come from the disk while the engine waits; then others have their turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What was read."""

    path: Path
    tokens: int
    """of document and template"""
    blocks: int
    file_bytes: int
    resumed_blocks: int = 0
    """blocks that an interrupted reading had left"""
    already: bool = False
    """the file was there, complete and the same"""


def read_document(
    llm: "LLM",
    path: str | Path,
    out: str | Path | None = None,
    *,
    system: str | None = None,
    data: bytes | None = None,
    progress: Progress | None = None,
    announce: Callable[[int, int], None] | None = None,
) -> Reading:
    """Read a document into a ``.kv`` file; see ``LLM.read_document``. ``data``: its bytes, where ``path`` is only a name."""
    native_executor(llm)
    source = Path(path)
    if out is None and data is not None:
        raise UsageError("standard input has no name to call the file by; give one with --out")
    target = source.with_suffix(".kv") if out is None else Path(out)
    content = read_bytes(source) if data is None else data
    text = document_text(source, content)
    described = describe_source(source if data is None else None, source.name, content)
    return read_text(llm, text, target, source=described, system=system, progress=progress, announce=announce)


def read_text(
    llm: "LLM",
    text: str,
    target: Path,
    *,
    source: Mapping[str, Any],
    system: str | None = None,
    progress: Progress | None = None,
    announce: Callable[[int, int], None] | None = None,
) -> Reading:
    """Read the text of a document; ``source`` is what ``describe_source`` says of it. Raises as ``LLM.read_document``.

    May run in any thread, also while another one drives the model. What ``progress`` raises stops it; what is read by
    then stays for the next time.
    """
    executor = native_executor(llm)
    job = _prepare(llm, executor, dict(source), text.strip(), system)
    found = _already_read(target, job)
    if found is not None:
        return found
    with _writer(target, job) as writer:
        resumed = writer.committed
        needed, free = _check_free(target, (job.layout.num_blocks - resumed) * job.layout.block_bytes)
        if announce is not None:
            announce(needed, free)
        _read_blocks(executor, writer, job, progress)
        writer.finish()
    return Reading(
        path=target,
        tokens=len(job.ids),
        blocks=job.layout.num_blocks,
        file_bytes=writer.header.file_bytes,
        resumed_blocks=resumed,
    )


def native_executor(llm: "LLM") -> "NativeExecutor":
    """The engine's executor. Raises ``UnsupportedCapability`` where the backend keeps no documents."""
    from whimbrel.backends.native import NativeExecutor

    if not isinstance(llm.executor, NativeExecutor) or not llm.capabilities.documents:
        raise UnsupportedCapability(
            f"the backend {llm.capabilities.backend!r} ({llm.capabilities.implementation or 'as loaded'}) keeps no "
            "documents; load the model with ops='native' and prefix sharing"
        )
    return llm.executor


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be written."""

    ids: np.ndarray[Any, np.dtype[np.int32]]
    meta: dict[str, Any]
    sections: dict[str, bytes]
    layout: KVLayout


def _prepare(llm: "LLM", executor: "NativeExecutor", source: dict[str, Any], text: str, system: str | None) -> _Job:
    before = user_turn(llm, system).before
    _check_characters(source["name"], len(text), llm)
    document, offsets = llm.tokenizer.encode_with_offsets(text)
    ids = np.array([*before, *document], np.int32)
    _check_context(source["name"], len(ids), llm.context)
    with executor.exclusive() as engine:
        documents, sparse = engine.documents, engine.config.sparse
        layout = documents.layout(len(ids) // BLOCK_SIZE)
        format, fingerprint, context = dict(documents.format), documents.model_fingerprint, engine.max_context
    assert llm.chat_template is not None
    meta = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "format": format,
        "model": {"name": llm.name, "path": llm.source, "fingerprint": fingerprint},
        "settings": {
            "context": context,
            "kv_dtype": format["kv_dtype"],
            "weights": llm.weights,
            "sparse": None if sparse is None else sparse.to_hf(),
        },
        "source": source,
        "prompt": {
            "system": system or None,
            "template": blake2b(llm.chat_template.source.encode(), digest_size=16).hexdigest(),
            "prefix_tokens": len(before),
            "ids": blake2b(np.array(document, np.int32).data, digest_size=16).hexdigest(),
        },
    }
    sections = {
        "ids": ids.tobytes(),
        "offsets": np.maximum.accumulate(np.array(offsets, np.int32)).tobytes(),
        "text": zlib.compress(text.encode()),
    }
    return _Job(ids, meta, sections, layout)


def _check_characters(name: str, length: int, llm: "LLM") -> None:
    """Raises ``PromptTooLong`` for a text that would be too long if all its tokens were the vocabulary's longest.

    To cut 100 MB into tokens takes most of a minute, in which no other thread of the program runs.
    """
    tokenizer = llm.tokenizer
    longest = max(len(tokenizer.token_bytes(id)) for id in range(tokenizer.vocab_size))
    if length > longest * llm.context:
        raise PromptTooLong(
            f"{name} has {length:,} characters, {length // longest:,} tokens at least, and the context holds "
            f"{llm.context:,}: give a shorter document"
        )


def _check_context(name: str, length: int, context: int) -> None:
    """Raises ``PromptTooLong`` where no question would fit behind the document."""
    needed = length + LEAST_ROOM
    if needed > context:
        raise PromptTooLong(
            f"{name} has {length:,} tokens and the context holds {context:,}, of which a question and its answer need "
            f"{LEAST_ROOM}: give it more with --context {-(-(length + 1024) // 1024)}k"
        )


def _already_read(target: Path, job: _Job) -> Reading | None:
    """A complete file of the same document, model and settings. Raises ``UsageError`` for any other kind of file."""
    if not target.exists():
        return None
    if not is_kv_file(target):
        raise UsageError(f"{target} is there and is no document that was read; choose another name with --out")
    stored = StoredDocument(target)
    if stored.meta["source"]["path"] != job.meta["source"]["path"]:
        raise UsageError(
            f"{target} holds {stored.meta['source']['path'] or stored.name}; choose another name with --out, or remove it"
        )
    if differences(stored.meta, job.meta):
        return None
    return Reading(
        path=target, tokens=len(job.ids), blocks=stored.num_blocks, file_bytes=stored.file.nbytes, already=True
    )


def _writer(target: Path, job: _Job) -> KVWriter:
    """A new file, or the unfinished one. Raises ``UsageError`` where that is of something else."""
    part = part_of(target)
    if not part.exists() or part.stat().st_size == 0:
        _check_free(target, KVHeader.plan(job.meta, job.sections, job.layout).file_bytes)
        return KVWriter(target, job.meta, job.sections, job.layout)
    writer = KVWriter.resume(target)
    wrong = differences(writer.meta, job.meta)
    if wrong or writer.layout != job.layout:
        writer.close()
        raise UsageError(
            f"{part} is the beginning of something else ({', '.join(wrong) or 'another shape'}): "
            "finish that first, remove it to start anew, or choose another name with --out"
        )
    log.info("%s: going on behind %d of %d blocks", part, writer.committed, job.layout.num_blocks)
    return writer


def _check_free(target: Path, needed: int) -> tuple[int, int]:
    """Bytes that the disk has to take, and that it has free. Raises ``WriteError`` before anything is computed that could not be kept."""
    folder = target.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder} to write in; choose another place with --out")
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteError(
            f"{target} takes {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free in its folder; make room, choose "
            "another place with --out, or halve it with --kv-dtype q8"
        )
    return needed, free


def _read_blocks(executor: "NativeExecutor", writer: KVWriter, job: _Job, progress: Progress | None) -> None:
    """Prefill what is missing, and append each block as soon as it is computed."""
    total = job.layout.num_blocks
    _load_back(executor, writer, job)
    show = progress or (lambda done, of: None)
    show(writer.written * BLOCK_SIZE, len(job.ids))
    if writer.written == total:
        return
    while writer.written < total:
        before = writer.written
        _read_on(executor, writer, job, show)
        if writer.written == before:  # others drop blocks as fast as they are computed
            raise DoesNotFit(
                f"the cache has no room to read {job.meta['source']['name']} beside other answers; give it more, or read "
                "it when less is asked"
            )


def _read_on(executor: "NativeExecutor", writer: KVWriter, job: _Job, show: Progress) -> None:
    """One prompt, to its end or to that of the document.

    A sequence holds its blocks until it ends, so it writes tokens that nobody wants until the last block is taken: where
    another thread drives the model, steps don't wait for this one.
    """
    total = job.layout.num_blocks
    ids = job.ids[: total * BLOCK_SIZE]
    keys = document_keys(ids)
    params = SamplingParams(max_tokens=LEAST_ROOM, ignore_eos=True)
    steps = executor.generate(Request(token_ids=tuple(ids.tolist()), params=params))
    last = monotonic()
    try:
        for _ in steps:
            _append(executor, writer, keys)
            show(writer.written * BLOCK_SIZE, len(job.ids))
            if writer.written == total:
                return
            if monotonic() - last >= COMMIT_SECONDS:
                writer.commit()
                last = monotonic()
    finally:
        steps.close()


def _load_back(executor: "NativeExecutor", writer: KVWriter, job: _Job) -> None:
    """Blocks that an interrupted reading left go into the cache."""
    key = ROOT
    count = writer.written if writer.written < job.layout.num_blocks else 0
    for start in range(0, count, TURN_BLOCKS):
        with executor.exclusive() as engine:
            for index in range(start, min(start + TURN_BLOCKS, count)):
                ids = job.ids[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
                key = engine.documents.put(key, ids, index, *writer.block(index))


def _append(executor: "NativeExecutor", writer: KVWriter, keys: list[bytes]) -> None:
    """Every block that was computed since the last step."""
    with executor.exclusive() as engine:
        while writer.written < len(keys):
            found = engine.documents.take(keys[writer.written])
            if found is None:
                return
            data, codes, scales = found
            if writer.written == 0 and len(codes):
                # The first block's first kernel would begin before the document: never written, never read.
                codes, scales = codes.copy(), scales.copy()
                codes.reshape(codes.shape[0], -1, 4, 4)[:, :, 0] = 0
                scales[:, 0] = 0
            writer.append(data, codes, scales)
