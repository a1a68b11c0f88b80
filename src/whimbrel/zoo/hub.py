"""Repositories of the Hugging Face Hub, through huggingface_hub and its cache.

The cache is used in place: what another program fetched is found, what whimbrel fetches others find. ``HF_HOME``,
``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean there; interrupted files resume.
A repository is taken as safetensors, or, where ``:quant`` was given or nothing else is there, as one GGUF file.
"""

import errno
import io
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whimbrel.errors import DownloadError, ModelNotFound, WhimbrelError
from whimbrel.zoo.download import Progress, disk_error, silent

_WANTED = ("*.json", "*.safetensors", "tokenizer.model", "*.jinja", "*.txt", "LICENSE*")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Files of one commit, in the Hub's cache."""

    path: Path
    revision: str
    bytes: int


def fetch_repository(
    repository: str, quant: str = "", revision: str = "", *, offline: bool = False, progress: Progress = silent
) -> Snapshot:
    """Bring what is needed to run ``repository`` into the Hub's cache. Raises ModelNotFound or DownloadError."""
    import huggingface_hub
    from huggingface_hub import constants

    offline = offline or bool(constants.HF_HUB_OFFLINE)
    with _plain_errors(repository, revision):
        options: dict[str, Any] = {"revision": revision or None, "local_files_only": offline}
        patterns = list(_WANTED)
        if not offline:
            _reach(constants.ENDPOINT, repository)
            names = huggingface_hub.HfApi().list_repo_files(repository, revision=revision or None)
            patterns = choose_files(repository, names, quant)
        elif quant:
            patterns = [f"*{quant}*.gguf"]
        folder = Path(
            huggingface_hub.snapshot_download(
                repository, allow_patterns=patterns, tqdm_class=_reporting(repository, progress), **options
            )
        )
    path = _main_file(folder, repository, quant)
    files = [path] if path.is_file() else [file for file in folder.rglob("*") if file.is_file()]
    return Snapshot(path=path, revision=folder.name, bytes=sum(file.stat().st_size for file in files))


def choose_files(repository: str, names: Sequence[str], quant: str) -> list[str]:
    """The files of a repository that make one model. Raises ModelNotFound with the list of what there is."""
    ggufs = [name for name in names if name.lower().endswith(".gguf")]
    if not quant and any(name.endswith(".safetensors") for name in names):
        return list(_WANTED)
    tags = sorted({quant_of(name) for name in ggufs})
    if not quant and len(tags) == 1:
        quant = tags[0]
    chosen = [name for name in ggufs if quant_of(name).lower() == quant.lower()]
    if chosen:
        return chosen
    there = f"it has {', '.join(tags)}" if tags else "it holds no GGUF file and no safetensors"
    asked = f"no GGUF of kind {quant!r}" if quant else "a choice of GGUF files" if tags else "no weights to load"
    raise ModelNotFound(f"{repository}: {asked}; {there}" + (f". Write {repository}:{tags[0]}" if tags else ""))


def quant_of(name: str) -> str:
    """The kind of quantization in a GGUF file's name: ``dir/Model-7B.Q4_K_M.gguf`` -> ``Q4_K_M``."""
    stem = _SHARD.sub("", name.rsplit("/", 1)[-1][: -len(".gguf")])
    return re.split(r"[.-]", stem)[-1]


def fetch_file(repository: str, name: str, revision: str = "") -> Path:
    """One small file of a repository, in the Hub's cache. Raises ModelNotFound or DownloadError."""
    import huggingface_hub

    with _plain_errors(repository, revision):
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision or None))


def forget(repository: str, revision: str) -> int:
    """Delete one commit's files from the Hub's cache; returns the bytes freed. For ``whimbrel rm --files``."""
    import huggingface_hub

    with _plain_errors(repository, revision):
        strategy = huggingface_hub.scan_cache_dir().delete_revisions(revision)
        strategy.execute()
        return int(strategy.expected_freed_size)


def _reach(endpoint: str, repository: str) -> None:
    """Say so at once where nobody can be reached: the Hub's library would try for most of a minute first."""
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if isinstance(error.reason, (ConnectionRefusedError, socket.gaierror, TimeoutError)):
            raise DownloadError(
                f"can't reach the Hub at {endpoint} for {repository} ({error.reason}); check the network, or set"
                " HF_ENDPOINT to a mirror, and run the same command again"
            ) from error
    except OSError:
        return  # a half-working network: the Hub's library says better what is wrong with it


def _main_file(folder: Path, repository: str, quant: str) -> Path:
    """The path to load: the folder for safetensors, the (first) file for GGUF."""
    if not quant and any(folder.glob("*.safetensors")):
        return folder
    ggufs = sorted(path for path in folder.rglob("*.gguf") if not quant or quant_of(path.name).lower() == quant.lower())
    if not ggufs:
        wanted = f"{repository}:{quant}" if quant else repository
        raise ModelNotFound(f"{wanted} is not in the Hub's cache at {folder}; pull it again without --offline")
    return ggufs[0]


def _reporting(repository: str, progress: Progress) -> type[Any]:
    """A tqdm that reports to ``progress`` instead of drawing; the Hub's library counts all files' bytes in one bar."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    most = [0, 0]  # bytes done, bytes in total: the library keeps two such bars, the one that is ahead is shown

    class Reporting(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": io.StringIO()})

        def display(self, *args: Any, **kwargs: Any) -> None:
            if getattr(self, "unit", "") == "B" and self.total:
                most[:] = max(most[0], int(self.n)), max(most[1], int(self.total))
                progress(repository, most[0], most[1])

    return Reporting


@contextmanager
def _plain_errors(repository: str, revision: str) -> Iterator[None]:
    """Turn the Hub library's many exceptions into one line each."""
    try:
        yield
    except Exception as error:
        if isinstance(error, WhimbrelError) or (plain := _explain(error, repository, revision)) is None:
            raise
        raise plain from error


def _explain(error: Exception, repository: str, revision: str) -> WhimbrelError | None:
    """What went wrong, for people; None for what the Hub's library never raises."""
    from huggingface_hub import constants, errors

    cause = error.__cause__ or error
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(f"{repository} is gated; accept its licence on the Hub and set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"{repository} has no revision {revision!r}; leave it out for the newest")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(f"the Hub has no repository {repository}, or it is private (then set HF_TOKEN)")
    if isinstance(error, errors.HFValidationError):
        return ModelNotFound(f"{repository!r} can't be a repository of the Hub: {error}")
    if isinstance(error, errors.OfflineModeIsEnabled) or (
        isinstance(error, errors.LocalEntryNotFoundError) and cause is error
    ):
        return ModelNotFound(f"{repository} is not (whole) in the Hub's cache; pull it once with the network on")
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES}:
        return disk_error(error, Path(constants.HF_HUB_CACHE) / repository)
    if isinstance(error, (errors.HfHubHTTPError, OSError)) or type(error).__module__.startswith("httpx"):
        line = next(iter(str(cause).splitlines()), type(cause).__name__)
        return DownloadError(
            f"the download of {repository} stopped ({line}); what is here is kept. Check the network (HF_ENDPOINT names a"
            " mirror) and run the same command again to go on"
        )
    return None
