"""A conversation on the disk: what was said, its token ids, and the keys and values of what the model has read.

The file is a ``.kv`` file as of a document (``formats.kv_file``): the blocks of the cache that the conversation has filled,
messages and ids as sections beside them. Opened again, nothing of these blocks is read anew. It replaces an older one
in one step; whatever stops the writing leaves that as it was.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whimbrel.attention.inputs import BLOCK_SIZE
from whimbrel.backends.native import NativeExecutor
from whimbrel.backends.reading import TURN_BLOCKS
from whimbrel.backends.stored import differences
from whimbrel.engine.blocks import ROOT
from whimbrel.engine.document import DocumentBlocks, document_keys
from whimbrel.errors import DoesNotFit, FormatError, UsageError, WriteError
from whimbrel.formats.kv_file import KVFile, KVHeader, is_kv_file
from whimbrel.formats.kv_layout import KVLayout
from whimbrel.formats.kv_writer import KVWriter, part_of

if TYPE_CHECKING:
    from whimbrel.backends.chat import Chat
    from whimbrel.backends.llm import LLM

log = logging.getLogger(__name__)

KIND = "session"
"""What ``meta`` says of such a file."""


def save_session(chat: "Chat", path: str | Path) -> int:
    """Write a conversation; the number of tokens whose keys and values are in the file.

    What the cache has dropped since is left out with all that follows it. Backends that keep no blocks have none.
    Raises ``WriteError`` where the disk is full or refuses (an older file stays as it was), ``UsageError`` where there is
    no such folder or another process writes there.
    """
    target, llm = Path(path), chat.llm
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target} can't be written: there is no folder {target.absolute().parent}; try another place")
    ids = np.array(chat.token_ids, np.int32)
    sections = {"chat": json.dumps(chat.save(), ensure_ascii=False).encode(), "ids": ids.tobytes()}
    executor = _keeper(llm)
    if executor is None:
        _write(target, None, [], {"kind": KIND, **_about(llm, None)}, sections, KVLayout(num_blocks=0, block_bytes=0))
        return 0
    keys = document_keys(ids[: len(ids) // BLOCK_SIZE * BLOCK_SIZE])
    with executor.exclusive() as engine:
        held = engine.documents.hold(keys)
        layout, meta = engine.documents.layout(len(held)), {"kind": KIND, **_about(llm, engine.documents)}
    try:
        _write(target, executor, keys[: len(held)], meta, sections, layout)
    finally:
        with executor.exclusive() as engine:
            engine.documents.release(held)
    return len(held) * BLOCK_SIZE


def load_session(chat: "Chat", path: str | Path) -> int:
    """Go on with a saved conversation; the number of tokens that needn't be read again.

    Other settings take messages and ids, another model messages only, and both are logged. Raises ``FormatError`` for a
    file that is damaged or something else, ``UsageError`` where there is none; the conversation is unchanged then.
    """
    file, saved = _open(Path(path))
    try:
        file.check()
    except FormatError as error:
        raise FormatError(f"{path} is no conversation that can be gone on with: {_why(error, file.path)}") from None
    llm, executor = chat.llm, _keeper(chat.llm)
    if executor is None:
        now = _about(llm, None)
    else:
        with executor.exclusive() as engine:
            now = _about(llm, engine.documents)
    key = "fingerprint" if executor is not None else "path"
    other, wrong = file.meta["model"][key] != now["model"][key], differences(file.meta, now)
    if other:
        log.warning("%s was saved with another model: its messages stay, and are read again", path)
    elif wrong:
        log.warning("%s was saved with other settings (%s): it is read again", path, ", ".join(wrong))
    chat.load({**saved, "source": None if other else llm.source})
    if other or wrong or executor is None:
        return 0
    return _put_blocks(executor, file, np.frombuffer(file.section("ids"), np.int32))


def session_settings(path: str | Path) -> tuple[str, dict[str, Any]]:
    """The model of a saved conversation (a name or a path), and the options of ``LLM`` under which it was read.

    Raises as ``load_session``.
    """
    file, _ = _open(Path(path))
    model, settings = file.meta["model"], file.meta["settings"]
    sparse = settings["sparse"]
    attention = {"attention": "dense"} if sparse is None else {"attention": "sparse", "sparse": sparse}
    options = {**attention, **{name: settings[name] for name in ("context", "kv_dtype", "weights")}}
    return str(model["name"] or model["path"]), {name: value for name, value in options.items() if value is not None}


# --- inside


def _keeper(llm: "LLM") -> NativeExecutor | None:
    """The executor whose cache has blocks that can be kept; None for other backends."""
    return llm.executor if isinstance(llm.executor, NativeExecutor) and llm.capabilities.documents else None


def _about(llm: "LLM", documents: DocumentBlocks | None) -> dict[str, Any]:
    """Everything that ids, keys and values depend on."""
    sparse = llm.capabilities.sparse
    return {
        "format": {} if documents is None else dict(documents.format),
        "model": {
            "name": llm.name,
            "path": llm.source,
            "fingerprint": None if documents is None else documents.model_fingerprint,
        },
        "settings": {
            "context": llm.context,
            "kv_dtype": None if documents is None else documents.format["kv_dtype"],
            "weights": llm.weights,
            "sparse": None if sparse is None else sparse.to_hf(),
        },
    }


def _write(
    target: Path,
    executor: NativeExecutor | None,
    keys: list[bytes],
    meta: Mapping[str, Any],
    sections: Mapping[str, bytes],
    layout: KVLayout,
) -> None:
    needed, free = KVHeader.plan(meta, sections, layout).file_bytes, shutil.disk_usage(target.absolute().parent).free
    if needed > free:
        raise WriteError(
            f"{target} takes {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free in its folder; nothing was saved: "
            "make room, or try another place"
        )
    try:
        with KVWriter(target, meta, sections, layout) as writer:
            for key in keys:
                assert executor is not None
                with executor.exclusive() as engine:
                    found = engine.documents.take(key)
                assert found is not None, "the block is held"
                writer.append(*found)
            writer.finish()
    except WriteError as error:
        part_of(target).unlink(missing_ok=True)  # nobody goes on with it, and the disk may be full
        why = str(error).partition(";")[0]
        raise WriteError(f"{target} was not saved: {why}; an older file of that name is as it was") from error


def _open(path: Path) -> tuple[KVFile, dict[str, Any]]:
    """The file, and the conversation in it."""
    if not path.exists():
        raise UsageError(f"{path} can't be read: there is no such file")
    if not is_kv_file(path):
        raise FormatError(f"{path} is no conversation that was saved with what was read; /load takes those in JSON")
    try:
        file = KVFile(path)
    except FormatError as error:
        raise FormatError(f"{path} is no conversation that can be gone on with: {_why(error, path)}") from None
    if file.meta.get("kind") != KIND:
        raise FormatError(f'{path} is a document and no conversation; ask it with: whimbrel ask {path} "..."')
    try:
        saved = json.loads(file.section("chat"))
        assert {"fingerprint", "name", "path"} <= file.meta["model"].keys() and file.meta["settings"].keys()
    except (ValueError, KeyError, AttributeError, AssertionError) as error:
        raise FormatError(f"{path} lacks what a conversation needs: {error!r}") from None
    return file, saved


def _why(error: FormatError, path: Path) -> str:
    """What is wrong with the file, without the advice to read a document again."""
    return str(error).removeprefix(f"{path} ").partition(";")[0]


def _put_blocks(executor: NativeExecutor, file: KVFile, ids: Any) -> int:
    """Blocks of the file into the cache, a few at a time, so that others have their turn; as many as it holds."""
    layout, key = file.layout, ROOT
    with executor.exclusive() as engine:
        count = min(layout.num_blocks, engine.documents.num_blocks - 1)
    done = 0
    try:
        for start in range(0, count, TURN_BLOCKS):
            with executor.exclusive() as engine:
                for index in range(start, min(start + TURN_BLOCKS, count)):
                    part = ids[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
                    kernels = layout.kernels_of(file.codes, file.scales, index)
                    key = engine.documents.put(key, part, index, file.block(index), *kernels)
                    done += 1
            file.forget_pages()
    except DoesNotFit:
        log.warning("the cache has room for %d of the conversation's %d blocks; the rest is read again", done, count)
    return done * BLOCK_SIZE
