"""A tiny model that is pulled, and ways to call the program in this process and in one of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from whimbrel.cli.main import app
from whimbrel.testing import tiny
from whimbrel.zoo.pull import pull


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama folder of a few kilobytes."""
    return tiny.write_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "llama", max_position_embeddings=2048)


@pytest.fixture
def model(home: Path, checkpoint: Path) -> str:
    """Its name in the store of this test."""
    return pull(str(checkpoint)).name


@pytest.fixture
def call() -> Callable[..., Any]:
    """``call("list", "--json")``: the program in this process; has exit_code, stdout, stderr."""
    return lambda *words, **options: CliRunner().invoke(app, [str(word) for word in words], **options)


@pytest.fixture
def program() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """The program in a process of its own; bytes in, bytes out."""

    def run(*words: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "whimbrel", *map(str, words)]
        return subprocess.run(command, capture_output=True, timeout=120, check=False, **{"input": b"", **options})

    return run
