"""A server as people start it: a process, a port of its own, a key, and the real default model."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MODEL = "smollm2-135m"
KEY = "a-key-of-the-tests"
SECONDS_TO_START = 120
SECONDS_TO_STOP = 60
MAX_SEQUENCES, MAX_QUEUE = 4, 8


@dataclass
class Server:
    """A running server: where it listens, and what it has said on standard error so far."""

    url: str
    process: "subprocess.Popen[str]"
    log: list[str] = field(default_factory=list)
    key: str = KEY
    model: str = MODEL

    @property
    def v1(self) -> str:
        """The base of OpenAI's paths."""
        return f"{self.url}/v1"

    def get(self, path: str) -> str:
        """The body of a GET with the key."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric over those of its series whose labels begin as given."""
        total = 0.0
        for line in self.get("/metrics").splitlines():
            found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if found is None:
                continue
            has = dict(re.findall(r'(\w+)="([^"]*)"', found[1] or ""))
            if all(has.get(key, "").startswith(value) for key, value in labels.items()):
                total += float(found[2])
        return total

    def wait_idle(self, seconds: float = 20) -> None:
        """Return when no sequence runs or waits; fail after that time."""
        end = time.monotonic() + seconds
        while (busy := self.metric("whimbrel_running") + self.metric("whimbrel_waiting")) > 0:
            assert time.monotonic() < end, f"{busy:.0f} sequences are still there {seconds} s after their clients left"
            time.sleep(0.05)


@contextmanager
def started(*options: str, model: str = MODEL, key: str = KEY) -> Iterator[Server]:
    """``whimbrel serve`` on a free port; at the end it must stop cleanly, and have logged no traceback."""
    words = ["serve", model, "--port", "0", "--api-key", key, *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "whimbrel", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    running = Server("", process, key=key, model=model)
    listening = threading.Event()
    reader = threading.Thread(target=_read_log, args=(running, listening), daemon=True)
    reader.start()
    try:
        assert listening.wait(SECONDS_TO_START) and running.url, "the server didn't start: " + "".join(
            running.log[-30:]
        )
        _wait_healthy(running)
        yield running
        process.send_signal(signal.SIGTERM)
        code = process.wait(SECONDS_TO_STOP)
        assert code == 0, f"the server ended with code {code}: " + "".join(running.log[-5:])
        reader.join(10)
        assert not [line for line in running.log if "Traceback" in line], "".join(running.log[-200:])
    finally:
        process.kill()
        process.wait()


def _read_log(running: Server, listening: threading.Event) -> None:
    """Keep standard error, and find the line with the address; an ended process ends the waiting too."""
    assert running.process.stderr is not None
    for line in running.process.stderr:
        running.log.append(line)
        if not running.url and (found := re.search(r"listening on (http://[^\s\"]+)", line)):
            running.url = found[1].rstrip("/")
            listening.set()
    listening.set()


def _wait_healthy(running: Server) -> None:
    """Ask /health until it says 200. While the model loads it says 503, never anything else."""
    end = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            assert '"ok"' in running.get("/health")
            return
        except urllib.error.HTTPError as error:
            assert error.code == 503, error
        assert time.monotonic() < end, "the server never became healthy: " + "".join(running.log)
        time.sleep(0.1)
