"""Downloads over a real loopback server: resume, checksum, validators, offline, full disk, two at once."""

import errno
import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fileserver import FileServer

from whimbrel.errors import DownloadError, ModelNotFound
from whimbrel.zoo import download as module
from whimbrel.zoo.download import Source, download

BODY = random.Random(7).randbytes(300_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer().running() as site:
        site.files["/m.gguf"] = BODY
        yield site


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)


def source(server: FileServer, sha256: str = SHA) -> Source:
    return Source(url=f"{server.url}/m.gguf", sha256=sha256)


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_whole_file(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    digest = download(source(server), tmp_path / "a", progress=lambda what, done, total: seen.append((done, total)))
    assert digest == SHA
    assert (tmp_path / "a").read_bytes() == BODY
    assert leftovers(tmp_path) == {"a"}
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_cut_connection_is_resumed_within_the_run(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = 100_000
    download(source(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_run_goes_on_where_the_first_stopped(server: FileServer, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    server.cut_after = 120_000
    with pytest.raises(KeyboardInterrupt):
        download(source(server), tmp_path / "a", progress=stop)
    assert not (tmp_path / "a").exists()
    kept = (tmp_path / "a.part").stat().st_size
    assert 0 < kept < len(BODY)
    server.cut_after = None
    download(source(server), tmp_path / "a")
    assert server.requests[-1]["Range"] == f"bytes={kept}-"
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    server.cut_after, server.status = 50_000, None
    with pytest.raises(KeyboardInterrupt):
        download(source(server, ""), tmp_path / "a", progress=interrupt_at(1))
    new = bytes(reversed(BODY))
    server.files["/m.gguf"], server.etags["/m.gguf"], server.cut_after = new, '"two"', None
    download(source(server, ""), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == new


def interrupt_at(count: int):  # type: ignore[no-untyped-def]
    calls = iter(range(1, 1000))

    def progress(what: str, done: int, total: int | None) -> None:
        if next(calls) >= count:
            raise KeyboardInterrupt

    return progress


def test_a_server_without_ranges_starts_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(BODY[:1000])
    (tmp_path / "a.part.json").write_text(f'{{"url": "{server.url}/m.gguf", "sha256": "{SHA}", "validator": ""}}')
    server.ranges = False
    download(source(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_complete_part_is_only_checked(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(BODY)
    (tmp_path / "a.part.json").write_text(
        f'{{"url": "{server.url}/m.gguf", "sha256": "{SHA}", "validator": "\\"one\\""}}'
    )
    download(source(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_wrong_checksum_deletes_the_part_and_nothing_else(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"good")
    with pytest.raises(DownloadError, match="wrong checksum"):
        download(source(server, "0" * 64), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"good"
    assert leftovers(tmp_path) == {"a"}


def test_a_part_of_another_file_ends_as_a_checksum_error_and_the_next_run_is_clean(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.part.json").write_text(f'{{"url": "elsewhere", "sha256": "{SHA}"}}')
    with pytest.raises(DownloadError, match="wrong checksum"):
        download(source(server), tmp_path / "a")
    download(source(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_missing_file(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="404"):
        download(Source(url=f"{server.url}/no.gguf"), tmp_path / "a")


def test_a_server_that_fails_is_tried_again_and_then_named(server: FileServer, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match="run the same command again"):
        download(source(server), tmp_path / "a")
    assert len(server.requests) == 5


def test_a_refusal_is_not_tried_again(server: FileServer, tmp_path: Path) -> None:
    server.status = 403
    with pytest.raises(DownloadError, match="403"):
        download(source(server), tmp_path / "a")
    assert len(server.requests) == 1


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="can't reach .*Check the network"):
        download(Source(url="http://127.0.0.1:9/m.gguf"), tmp_path / "a")


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        download(Source(url="http://me:secret@127.0.0.1:9/m.gguf"), tmp_path / "a")
    assert "secret" not in str(caught.value)


def test_two_at_once(server: FileServer, tmp_path: Path) -> None:
    with module._locked(tmp_path / "a"), pytest.raises(DownloadError, match="another process"):
        download(source(server), tmp_path / "a")


def test_too_little_room_is_seen_before_the_first_byte(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match="no room"):
        download(source(server), tmp_path / "a")
    assert leftovers(tmp_path) == set()


def test_a_disk_that_fills_up_keeps_the_part(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(DownloadError, match="no room"):
        download(source(server), tmp_path / "a")
    assert "a" not in leftovers(tmp_path)
    monkeypatch.undo()
    download(source(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk(server: FileServer, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        with pytest.raises(DownloadError, match="no room"):
            download(source(server), small / "a")
        assert "a" not in leftovers(small)
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_file_size_limit(server: FileServer, tmp_path: Path) -> None:
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DownloadError, match="no room"):
            download(source(server), tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "a.part").stat().st_size <= 100_000
    download(source(server), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BODY


def test_a_folder_that_can_not_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="can't write"):
        download(source(server), tmp_path / "file" / "a")
