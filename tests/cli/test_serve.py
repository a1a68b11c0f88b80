"""``whimbrel serve``: what it refuses before it listens, each with a line and an exit code."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Program = Callable[..., subprocess.CompletedProcess[bytes]]


def refused(result: "subprocess.CompletedProcess[bytes]", code: int, *words: str) -> None:
    """Nothing but one line that says it."""
    said = result.stderr.decode()
    assert result.returncode == code, said
    assert said.startswith("whimbrel: ") and said.count("\n") == 1, said
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--host", "0.0.0.0"], "--api-key"),
        (["--host", "0.0.0.0", "--api-key", ""], "0 characters"),
        (["--api-key", "two words"], "9 characters"),
        (["--port", "99999"], "99999"),
        (["--context", "0"], "context"),
        (["--max-sequences", "0"], "max_sequences"),
        (["--max-queue", "-1"], "max_queue"),
        (["--keep-alive", "-1"], "keep_alive"),
        (["--max-body", "0"], "max_body"),
        (["--max-models", "0"], "max_models"),
        (["--log-format", "xml"], "text, json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_options(program: Program, model: str, options: list[str], word: str) -> None:
    refused(program("serve", model, "--port", "0", *options), 2, word)


def test_an_empty_key_of_the_environment_is_none(program: Program, model: str) -> None:
    environment = {**os.environ, "WHIMBREL_API_KEY": ""}
    refused(program("serve", model, "--host", "0.0.0.0", env=environment), 2, "--api-key")


def test_a_model_that_is_not_here(program: Program, model: str) -> None:
    refused(program("serve", model, "nobody", "--port", "0"), 3, "'nobody'")


def test_a_port_that_is_taken(program: Program, model: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(program("serve", model, "--port", port), 1, f"port {port}", "another --port")


def test_an_address_of_another_machine(program: Program, model: str) -> None:
    refused(program("serve", model, "--host", "192.0.2.1", "--api-key", "k", "--port", "0"), 1, "192.0.2.1")


def test_a_folder_that_cannot_be(program: Program, model: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(program("serve", model, "--port", "0", "--files", tmp_path / "file" / "in"), 1, "--files")


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra(model: str, missing: str) -> None:
    """An interpreter in which a library isn't there."""
    code = f"import sys; sys.modules[{missing!r}] = None; from whimbrel.cli.main import main; main()"
    command = [sys.executable, "-c", code, "serve", model, "--port", "0"]
    result = subprocess.run(command, capture_output=True, timeout=60, check=False)
    refused(result, 1, missing, "pip install 'whimbrel[server]'")


def test_it_says_where_it_listens_and_stops_with_0(model: str) -> None:
    command = [sys.executable, "-m", "whimbrel", "serve", model, "--port", "0", "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("listening on http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
