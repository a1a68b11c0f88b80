"""Files: documents that clients bring, read once by a model and asked for as long as they are kept.

Each lies in a folder of its own: the document as it came, ``document.kv`` with its keys and values, ``file.json`` with
what is known of it. Reading goes on in the background, one document per model at a time, in a thread that waits for the
driver's steps; answers go on beside it. Belongs to the event loop.
"""

import asyncio
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from whimbrel.backends.stored import StoredDocument
from whimbrel.errors import WhimbrelError
from whimbrel.server.errors import ApiError
from whimbrel.server.pool import ModelPool, Resident

if TYPE_CHECKING:
    from whimbrel.backends.document import Document

log = logging.getLogger(__name__)

OPEN_DOCUMENTS = 8
"""Documents that stay attached to the caches although nobody asks them just now."""

STALE = "whimbrel-files-"
"""How temporary folders begin; the process that made one comes next in its name."""

_COPY_BYTES = 1 << 20


class Upload(Protocol):
    """A file that comes in, as a form has it."""

    filename: str | None
    file: BinaryIO


class _Cancelled(Exception):
    """Somebody deleted the document while it was read."""


@dataclass(slots=True)
class File:
    """A document, as far as it has come."""

    id: str
    filename: str
    purpose: str
    model: str
    bytes: int
    sha256: str
    created_at: int
    status: str = "processing"
    """"processing", "processed" or "error" """
    details: str | None = None
    """what went wrong"""
    tokens: int | None = None
    processed: int = 0
    total: int | None = None
    began: float | None = field(default=None, repr=False)
    """when reading began, by ``time.monotonic``, and with how many tokens"""
    began_with: int = 0
    deleted: bool = False

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None where nothing is known yet."""
        if self.began is None or not self.total or self.processed <= self.began_with:
            return None
        speed = (self.processed - self.began_with) / max(monotonic() - self.began, 1e-6)
        return (self.total - self.processed) / speed

    def progress(self) -> dict[str, Any]:
        """How far it is."""
        found: dict[str, Any] = {"status": self.status}
        left = self.seconds_left if self.status == "processing" else 0.0
        found["progress"] = {"processed": self.processed, "total": self.total, "seconds_left": left}
        if self.tokens is not None:
            found["tokens"] = self.tokens
        if self.details is not None:
            found["status_details"] = self.details
        return found

    def described(self) -> dict[str, Any]:
        """OpenAI's object, and ours in it."""
        object = {"id": self.id, "object": "file", "bytes": self.bytes, "created_at": self.created_at}
        return {**object, "filename": self.filename, "purpose": self.purpose, "model": self.model, **self.progress()}

    def kept(self) -> dict[str, Any]:
        """What is written beside the document."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_KEPT}


_NOT_KEPT = {"began", "began_with", "deleted"}


@dataclass(slots=True)
class _Attached:
    """Documents that are attached to a model's cache."""

    document: "Document"
    resident: Resident
    users: int = 0


class Files:
    """All documents of a server."""

    def __init__(self, pool: ModelPool, folder: Path | None) -> None:
        """``folder`` None: a temporary one, which goes away with the server."""
        self._pool = pool
        self._temporary = folder is None
        self._folder = folder or _temporary_folder()
        self._files: dict[str, File] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._attached: OrderedDict[tuple[str, ...], _Attached] = OrderedDict()

    async def start(self) -> None:
        """Find what an earlier server kept; go on with what it was reading."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._folder.glob("file-*/file.json")):
            file = _read_kept(path)
            if file is not None:
                self._files[file.id] = file
                if file.status == "processing":
                    self._begin(file)

    async def close(self) -> None:
        """Stop reading; a temporary folder goes away."""
        for task in self._tasks.values():
            task.cancel()
        for file in self._files.values():
            file.deleted = file.status == "processing"  # the thread sees it at its next step
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for attached in self._attached.values():
            with suppress(WhimbrelError):
                attached.document.close()
        if self._temporary:
            shutil.rmtree(self._folder, ignore_errors=True)

    def all(self) -> list[File]:
        """The newest first; of one second, the one that came later, as long as the server runs."""
        latest_first = list(self._files.values())[::-1]
        return sorted(latest_first, key=lambda file: file.created_at, reverse=True)

    def get(self, id: str) -> File:
        """Raises ``ApiError`` 404."""
        try:
            return self._files[id]
        except KeyError:
            raise ApiError(
                404, f"there is no file {id!r}; GET /v1/files lists what there is", code="no_such_file"
            ) from None

    def source(self, file: File) -> Path:
        """The document as it came."""
        return self._place(file) / "source" / file.filename

    async def text(self, file: File) -> str:
        """The document's text, as passages count its characters. Raises ``ApiError`` 409 while it is read."""
        self._check_ready(file)
        return await asyncio.to_thread(lambda: StoredDocument(self._kv(file)).text)

    # --- coming and going

    async def add(self, upload: Upload, *, purpose: str, model: str | None) -> File:
        """Keep a document and begin to read it. Raises ``ModelNotFound``, and ``ApiError`` 507 for a full disk."""
        name = self._pool.find(model)
        file = File(
            id=f"file-{uuid.uuid4().hex[:24]}",
            filename=_safe_name(upload.filename),
            purpose=purpose,
            model=name,
            bytes=0,
            sha256="",
            created_at=int(time()),
        )
        try:
            await asyncio.to_thread(self._save, file, upload.file)
        except OSError as error:
            shutil.rmtree(self._place(file), ignore_errors=True)
            raise ApiError(507, f"the document can't be kept: {error.strerror}", type="server_error") from None
        self._files[file.id] = file
        self._begin(file)
        return file

    async def delete(self, id: str) -> None:
        """Stop reading it, and forget it. Raises ``ApiError`` 404, and 409 while an answer reads it."""
        file = self.get(id)
        for key, attached in list(self._attached.items()):
            if id in key:
                if attached.users:
                    raise ApiError(409, f"an answer reads {file.filename} just now; try again when it is complete")
                del self._attached[key]
                await asyncio.to_thread(attached.document.close)
        file.deleted = True
        if task := self._tasks.get(id):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._files.pop(id, None)
        await asyncio.to_thread(shutil.rmtree, self._place(file), ignore_errors=True)

    # --- asking

    @asynccontextmanager
    async def attached(self, resident: Resident, ids: Sequence[str]) -> AsyncIterator["Document"]:
        """Documents in a model's cache for the length of the block. See ``attach``."""
        key = await self.attach(resident, ids)
        try:
            yield self._attached[key].document
        finally:
            self.detach(key)

    async def attach(self, resident: Resident, ids: Sequence[str]) -> tuple[str, ...]:
        """Put documents into a model's cache, unless they are there; a key for ``detach``.

        Raises ``ApiError`` 404, 409 for one that is still being read, 400 for one that another model has read.
        """
        files = [self.get(id) for id in ids]
        for file in files:
            self._check_ready(file)
            if file.model != resident.name:
                message = f"{file.filename} was read by {file.model}; ask that model, or give it to {resident.name} too"
                raise ApiError(400, message, param="file_id", code="other_model")
        key = (resident.name, *ids)
        found = self._attached.get(key)
        if found is None or found.resident is not resident:
            paths = [self._kv(file) for file in files]
            document = await asyncio.to_thread(resident.llm.open_document, *paths)
            found = self._attached.setdefault(key, _Attached(document, resident))
            if found.document is not document:  # somebody else was quicker, or the model was loaded anew meanwhile
                if found.resident is resident:
                    await asyncio.to_thread(document.close)
                else:
                    found = self._attached[key] = _Attached(document, resident)
        found.users += 1
        self._attached.move_to_end(key)
        return key

    def document(self, key: tuple[str, ...]) -> "Document":
        """What ``attach`` attached."""
        return self._attached[key].document

    def detach(self, key: tuple[str, ...]) -> None:
        """The counterpart of ``attach``: the documents may leave the cache when others want their place."""
        self._attached[key].users -= 1
        idle = [key for key, attached in self._attached.items() if not attached.users]
        for old in idle[: max(0, len(self._attached) - OPEN_DOCUMENTS)]:
            attached = self._attached.pop(old)
            asyncio.get_running_loop().run_in_executor(None, _close, attached.document)

    # --- inside

    def _place(self, file: File) -> Path:
        return self._folder / file.id

    def _kv(self, file: File) -> Path:
        return self._place(file) / "document.kv"

    def _check_ready(self, file: File) -> None:
        if file.status == "error":
            raise ApiError(
                400, f"{file.filename} could not be read: {file.details}", param="file_id", code="unreadable"
            )
        if file.status != "processed":
            done = f"{file.processed:,} of {file.total:,} tokens" if file.total else "not begun"
            raise ApiError(409, f"{file.filename} is still being read ({done}); ask when it is", code="not_ready")

    def _save(self, file: File, data: BinaryIO) -> None:
        """The document to the disk, piece by piece."""
        target = self.source(file)
        target.parent.mkdir(parents=True)
        digest = sha256()
        with target.open("wb") as out:
            while piece := data.read(_COPY_BYTES):
                digest.update(piece)
                out.write(piece)
                file.bytes += len(piece)
        file.sha256 = digest.hexdigest()
        self._keep(file)

    def _keep(self, file: File) -> None:
        path = self._place(file) / "file.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(file.kept()), encoding="utf-8")
        os.replace(part, path)

    def _begin(self, file: File) -> None:
        task = self._tasks[file.id] = asyncio.create_task(self._read(file))
        task.add_done_callback(lambda _: self._tasks.pop(file.id, None))

    async def _read(self, file: File) -> None:
        """Read a document, whatever happens; ``status`` says what came of it."""
        try:
            async with self._turns.setdefault(file.model, asyncio.Lock()):
                twin = self._twin(file)
                if twin is not None:
                    await asyncio.to_thread(os.link, self._kv(twin), self._kv(file))
                    file.tokens = file.processed = twin.tokens or 0
                    file.total = twin.tokens
                else:
                    await self._read_by_model(file)
            file.status = "processed"
        except (asyncio.CancelledError, _Cancelled):
            return
        except WhimbrelError as error:
            # by its own name, not by the path that it has here
            file.status, file.details = "error", str(error).replace(str(self.source(file)), file.filename)
        except Exception:
            log.exception("reading a document failed")
            file.status, file.details = "error", "this should not have happened; the server's log says more"
        with suppress(OSError):
            await asyncio.to_thread(self._keep, file)

    async def _read_by_model(self, file: File) -> None:
        async with self._pool.use(file.model) as resident:

            def progress(done: int, total: int) -> None:
                if file.deleted:
                    raise _Cancelled
                if file.began is None:
                    file.began, file.began_with = monotonic(), done
                file.processed, file.total = done, total

            work = asyncio.to_thread(resident.llm.read_document, self.source(file), self._kv(file), progress=progress)
            task = asyncio.ensure_future(work)
            try:
                reading = await asyncio.shield(task)
            except asyncio.CancelledError:
                file.deleted = True
                await asyncio.gather(task, return_exceptions=True)  # the model may go only when the thread is done
                raise
        file.tokens = file.processed = file.total = reading.tokens

    def _twin(self, file: File) -> File | None:
        """The same document, read by the same model before."""
        for other in self._files.values():
            same = (other.sha256, other.model, other.filename) == (file.sha256, file.model, file.filename)
            if other is not file and same and other.status == "processed" and self._kv(other).exists():
                return other
        return None


def _close(document: "Document") -> None:
    with suppress(
        WhimbrelError
    ):  # an answer that was just stopped may hold it for another step: it goes with the model
        document.close()


def _safe_name(name: str | None) -> str:
    """A name that is one in any folder; the suffix says what kind of document it is."""
    base = re.sub(r"[^\w.\- ]", "_", Path((name or "").replace("\\", "/")).name).strip(" .")
    return base[-120:] or "document.txt"


def _read_kept(path: Path) -> File | None:
    """None, and a line in the log, for what can't be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return File(**{one.name: values[one.name] for one in fields(File) if one.name in values})
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s is left alone: %s", path, error)
        return None


def _temporary_folder() -> Path:
    """A new one; those of servers that were killed go away."""
    root = Path(tempfile.gettempdir())
    for stale in _stale_folders(root):
        shutil.rmtree(stale, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{STALE}{os.getpid()}-"))


def _stale_folders(root: Path) -> Iterator[Path]:
    for folder in root.glob(f"{STALE}*-*"):
        number = folder.name.removeprefix(STALE).partition("-")[0]
        if number.isdigit() and folder.stat().st_uid == os.getuid() and not _runs(int(number)):
            yield folder


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
