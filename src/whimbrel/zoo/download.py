"""One file over HTTP, to the end: resumed, checked, and moved into place in one step.

Bytes go to ``<target>.part``; beside it ``<target>.part.json`` remembers the address and the server's validator, so that
a later run continues with ``Range``/``If-Range`` only if it is still the same file. A cut connection is resumed within
the run as long as bytes keep coming; after that, and on Ctrl-C or a full disk, the part stays and the same command goes on
from there. Only a complete file with the right SHA-256 replaces ``target``; a wrong one deletes the part, nothing else.
"""

import base64
import errno
import hashlib
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whimbrel.errors import DownloadError, ModelNotFound

Progress = Callable[[str, int, int | None], None]
"""Called with (what, bytes done, bytes in total or None) while something moves."""

_CHUNK = 1 << 20
_RETRIES = 5
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What to fetch. ``certificates`` is a CA bundle to trust beside the system's own, "" for none."""

    url: str
    sha256: str = ""
    bytes: int = 0
    certificates: str = ""


def silent(what: str, done: int, total: int | None) -> None:
    """A progress callback that shows nothing."""


def download(source: Source, target: Path, *, progress: Progress = silent) -> str:
    """Bring ``source`` to ``target`` and return its SHA-256. Raises DownloadError or ModelNotFound; see the module."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target) as part:
            _transfer(source, part, target.name, progress)
            digest = _verify(source, part)
            os.replace(part, target)
            _note(part).unlink(missing_ok=True)
            return digest
    except OSError as error:
        raise disk_error(error, target, source.bytes) from error


def disk_error(error: OSError, target: Path, size: int = 0) -> DownloadError:
    """The one line for an OSError met while writing ``target``."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        needed = f" for the {size / 1e6:.0f} MB of {target.name}" if size else f" for {target.name}"
        free = shutil.disk_usage(_existing_parent(target)).free
        return DownloadError(
            f"the disk has no room{needed}: {free / 1e6:.0f} MB are free at {target.parent}; make room, or set WHIMBREL_HOME"
            " to another disk, and run the same command again"
        )
    return DownloadError(f"can't write {target}: {error.strerror or error}; check the folder or set WHIMBREL_HOME")


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
            if progress:
                progress(file.tell())
    return digest.hexdigest()


def _transfer(source: Source, part: Path, what: str, progress: Progress) -> None:
    """Fill ``part`` up to the whole length, resuming as often as bytes keep coming."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _receive(source, part, what, progress)
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError, urllib.error.URLError) as error:
            _raise_if_final(error, source, part)
            failures = 1 if _size(part) > before else failures + 1
            if failures >= _RETRIES:
                raise DownloadError(_stopped(source, error, _size(part))) from error
            time.sleep(min(8.0, 0.2 * 2**failures))


def _receive(source: Source, part: Path, what: str, progress: Progress) -> None:
    """One request: append to ``part``, or start it anew where the server sends the whole file."""
    request, have = _request(source, part)
    context = ssl.create_default_context()
    if source.certificates:
        context.load_verify_locations(source.certificates)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=context)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return _restart_or_finish(error, source, part, what, progress)
        raise
    with response:
        resumed = getattr(response, "status", None) == http.client.PARTIAL_CONTENT
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        _check_room(part, total, start)
        _remember(part, source, response.headers)
        _write(response, part, start, total, lambda done: progress(what, done, total))


def _write(response: Any, part: Path, start: int, total: int | None, advance: Callable[[int], None]) -> None:
    done = start
    with part.open("r+b" if start else "wb") as file:
        file.truncate(start)
        file.seek(start)
        while block := response.read(_CHUNK):
            file.write(block)
            done += len(block)
            advance(done)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _request(source: Source, part: Path) -> tuple[urllib.request.Request, int]:
    """The request for what is still missing, and how many bytes are here already."""
    url, login = _split_login(source.url)
    request = urllib.request.Request(url, headers={"User-Agent": "whimbrel", "Accept-Encoding": "identity"})
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    note = _recall(part)
    same = note.get("url") == source.url or (source.sha256 and note.get("sha256") == source.sha256)
    have = _size(part) if same and (source.sha256 or note.get("validator")) else 0
    if have:
        request.add_header("Range", f"bytes={have}-")
        if note.get("url") == source.url and note.get("validator"):
            request.add_header("If-Range", note["validator"])
    return request, have


def _restart_or_finish(
    error: urllib.error.HTTPError, source: Source, part: Path, what: str, progress: Progress
) -> None:
    """The server has nothing after what we have: either all is here, or the part belongs to another file."""
    if error.headers.get("Content-Range", "") == f"bytes */{_size(part)}":
        return None
    part.unlink(missing_ok=True)
    return _receive(source, part, what, progress)


def _verify(source: Source, part: Path) -> str:
    digest = sha256_of(part)
    if source.sha256 and digest != source.sha256:
        size = _size(part)
        part.unlink(missing_ok=True)
        _note(part).unlink(missing_ok=True)
        raise DownloadError(
            f"wrong checksum for {_shown(source.url)}: expected SHA-256 {source.sha256[:16]}..., the {size} bytes received have"
            f" {digest[:16]}...; they were thrown away, nothing else was touched. Try again, or another index or mirror"
        )
    return digest


def _raise_if_final(error: Exception, source: Source, part: Path) -> None:
    """Errors that a retry can't cure."""
    url = _shown(source.url)
    if isinstance(error, urllib.error.HTTPError):
        if error.code in {404, 410}:
            raise ModelNotFound(f"{url} does not exist (HTTP {error.code}); check the address") from error
        if error.code < 500 and error.code not in {408, 429}:
            raise DownloadError(
                f"{url} answered HTTP {error.code} {error.reason}; check the address and your rights"
            ) from error
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise DownloadError(
            f"{url}: the certificate is not trusted ({reason.verify_message}); set SSL_CERT_FILE"
        ) from error
    if isinstance(reason, OSError) and reason.errno == errno.ENOENT:
        raise ModelNotFound(f"{url} does not exist; check the address") from error


def _stopped(source: Source, error: Exception, have: int) -> str:
    kept = f"; {have / 1e6:.1f} MB are kept" if have else ""
    reason = getattr(error, "reason", error)
    return (
        f"can't reach {_shown(source.url)} ({reason}){kept}. Check the network and run the same command again to go on"
    )


def _check_room(part: Path, total: int | None, have: int) -> None:
    """Refuse before the first byte where the disk can't hold the rest."""
    if total is not None and total - have > shutil.disk_usage(part.parent).free:
        raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def _locked(target: Path) -> Iterator[Path]:
    """The part file of ``target``, ours alone: a second process that pulls the same file is told so."""
    part = target.with_name(target.name + ".part")
    with target.with_name(target.name + ".lock").open("a") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: two pulls at once end with a checksum error at worst
            pass
        except BlockingIOError as error:
            raise DownloadError(f"another process is fetching {target.name} right now; wait for it") from error
        try:
            yield part
        finally:
            Path(lock.name).unlink(missing_ok=True)


def _remember(part: Path, source: Source, headers: Any) -> None:
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    note = {"url": source.url, "sha256": source.sha256, "validator": validator}
    _note(part).write_text(json.dumps(note), encoding="utf-8")


def _recall(part: Path) -> dict[str, str]:
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.exists())


def _split_login(url: str) -> tuple[str, str]:
    """(address without login, "user:password" or ""): urllib does not understand ``user:password@host`` itself."""
    parts = urllib.parse.urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), urllib.parse.unquote(login)


def _shown(url: str) -> str:
    """The address without a password in it."""
    return _split_login(url)[0]
