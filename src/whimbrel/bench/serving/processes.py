"""Servers as processes on loopback: ours, llama-cpp-python's and llama.cpp's own, with the same file and slots."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from whimbrel.bench.peer_build import REQUIREMENT
from whimbrel.errors import MissingExtra, WhimbrelError

HOST = "127.0.0.1"
OURS, LLAMA_CPP_PYTHON, LLAMA_SERVER = "whimbrel serve", "llama-cpp-python", "llama-server"
SECONDS_TO_START = 180
SECONDS_TO_STOP = 60


@dataclass(kw_only=True, slots=True)
class Serving:
    """A server that runs: its address, its process, and the last lines it has said."""

    name: str
    port: int
    process: "subprocess.Popen[str]"
    key: str = ""
    lines: list[str] = field(default_factory=list)
    exit_code: int | None = None
    """after SIGTERM; None while it runs, or where it had to be killed"""
    tracebacks: list[str] = field(default_factory=list)
    """lines of the log that hold one, so far"""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def get(self, path: str, seconds: float = 30) -> str:
        """The body of a GET. Raises ``urllib.error.HTTPError``, ``OSError``."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=seconds) as got:
            return str(got.read().decode())

    def metric(self, name: str) -> float:
        """The sum of all series of a metric of ours."""
        found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", self.get("/metrics"), re.MULTILINE)
        return sum(float(value) for value in found)

    def memory(self) -> int | None:
        """Resident bytes of the process; None where the system doesn't say."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def ours(model: str, *options: str, key: str = "") -> Iterator[Serving]:
    """``whimbrel serve`` on a free port; at the end it is asked to stop (SIGTERM), and ``exit_code`` says how it did.

    Raises ``WhimbrelError`` if it doesn't start.
    """
    words = ["serve", model, "--host", HOST, "--port", "0", *(["--api-key", key] if key else []), *options]
    with _running(OURS, [sys.executable, "-m", "whimbrel", *words], port=0, key=key) as serving:
        yield serving
        serving.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            serving.exit_code = serving.process.wait(SECONDS_TO_STOP)


@contextmanager
def llama_cpp_python(model: Path, *, context: int, threads: int) -> Iterator[Serving]:
    """The server that comes with llama-cpp-python. It has one slot: requests are answered one after the other.

    A request doesn't break off another's answer here (``--interrupt_requests false``), though that is its default.
    Raises ``MissingExtra``.
    """
    if any(
        find_spec(name) is None for name in ("llama_cpp", "starlette_context", "sse_starlette", "pydantic_settings")
    ):
        raise MissingExtra(
            "llama-cpp-python's server is not here; run `python -m whimbrel.bench.peer_build` and "
            f"`pip install '{REQUIREMENT.replace('==', '[server]==')}'`"
        )
    words = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", HOST]
    words += ["--n_ctx", str(context), "--n_threads", str(threads), "--n_threads_batch", str(threads)]
    words += ["--n_batch", "2048", "--flash_attn", "true", "--interrupt_requests", "false", "--verbose", "false"]
    port = free_port()
    with _running(LLAMA_CPP_PYTHON, [*words, "--port", str(port)], port=port, ready="/v1/models") as serving:
        yield serving


@contextmanager
def llama_server(model: Path, *, context: int, slots: int, threads: int) -> Iterator[Serving]:
    """llama.cpp's own server, with its default settings but for slots, context and threads.

    ``context``: tokens of one slot. Raises ``MissingExtra`` where there is no such program.
    """
    program = find_llama_server()
    if program is None:
        raise MissingExtra("llama-server is not here; `python -m whimbrel.bench.serving.llama_server` compiles it")
    words = [program, "--model", str(model), "--host", HOST, "--parallel", str(slots)]
    words += ["--ctx-size", str(context * slots), "--threads", str(threads), "--threads-batch", str(threads)]
    port = free_port()
    with _running(LLAMA_SERVER, [*words, "--port", str(port)], port=port, ready="/health") as serving:
        yield serving


def find_llama_server() -> str | None:
    """The program: what ``serving.llama_server`` has built, or the first on the path; None if there is neither."""
    built = built_llama_server()
    return str(built) if built.is_file() else shutil.which("llama-server")


def built_llama_server() -> Path:
    """Where ``serving.llama_server`` puts what it builds."""
    from platformdirs import user_cache_path

    return user_cache_path("whimbrel") / "bench" / "llama-server"


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server((HOST, 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def _running(
    name: str, command: Sequence[str], *, port: int, ready: str = "/health", key: str = ""
) -> Iterator[Serving]:
    """The process until the body ends; killed if it is still there then."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    serving = Serving(name=name, port=port, process=process, key=key)
    threading.Thread(target=_listen, args=(serving,), daemon=True).start()
    try:
        _wait_ready(serving, ready)
        yield serving
    finally:
        process.kill()
        process.wait()


def _listen(serving: Serving) -> None:
    """Keep what the process says, the last thousand lines, and take its port from it where it is not known."""
    assert serving.process.stderr is not None
    for line in serving.process.stderr:
        serving.lines.append(line)
        del serving.lines[:-1000]
        if "Traceback (most" in line:
            serving.tracebacks.append(line)
        if serving.port == 0 and (found := re.search(r"listening on http://[^:\s]+:(\d+)", line)):
            serving.port = int(found[1])


def _wait_ready(serving: Serving, path: str) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and serving.process.poll() is None:
        if serving.port:
            with suppress(OSError, urllib.error.HTTPError):
                serving.get(path, 5)
                return
        time.sleep(0.1)
    raise WhimbrelError(f"{serving.name} didn't start within {SECONDS_TO_START} s: {_tail(serving)}")


def _tail(serving: Serving) -> str:
    return "".join(serving.lines[-15:]) or "it said nothing"
