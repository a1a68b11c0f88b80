"""Every example runs, on a tiny model, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from whimbrel.testing import tiny

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama folder whose context holds the documents that ship."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("tiny") / "m", "llama", max_position_embeddings=16384)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, checkpoint: Path) -> None:
    text = path.read_text(encoding="utf-8").replace(
        "context=8192", "context=16384"
    )  # more tokens in the tiny vocabulary
    done = subprocess.run(
        [sys.executable, "-c", f"__file__ = {str(path)!r}\n{text}", str(checkpoint)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
