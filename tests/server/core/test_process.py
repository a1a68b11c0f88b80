"""The server as a process: signals, sockets, and clients that are slow, rude or gone. The model is a scripted one."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

SCRIPT = Path(__file__).with_name("slow_server.py")
SECONDS = 30.0
"""Only there so that a fault ends."""

ENDLESS = {"prompt": "Hi", "max_tokens": 100_000}


@dataclass
class Process:
    """A running server."""

    host: str
    port: int
    popen: "subprocess.Popen[str]"

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)

    def ask(self, method: str, path: str, body: Any = None, connection: Any = None) -> http.client.HTTPResponse:
        connection = connection or self.connection()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()  # type: ignore[no-any-return]

    def read(self, path: str) -> str:
        return self.ask("GET", path).read().decode()

    def open_answers(self) -> int:
        found = re.search(r"^whimbrel_open_answers (\d+)", self.read("/metrics"), re.MULTILINE)
        assert found is not None
        return int(found[1])

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def end(self) -> str:
        """Wait for a clean end; the log."""
        log = self.popen.communicate(timeout=SECONDS)[1]
        assert self.popen.returncode == 0, log
        return log

    def raw(self, request: bytes, *, window: int | None = None) -> socket.socket:
        """A bare connection on which something was sent."""
        one = socket.socket()
        if window is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        one.settimeout(SECONDS)
        one.connect((self.host, self.port))
        one.sendall(request)
        return one


Start = Callable[..., Process]


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


@pytest.fixture
def start(checkpoint: Path) -> Iterator[Start]:
    """``start(step=..., gate=..., **settings)``."""
    with ExitStack() as stack:

        def started(*, step: float = 0.005, gate: Path | None = None, **settings: Any) -> Process:
            options = {"step": step, "settings": settings, **({"gate": str(gate)} if gate else {})}
            popen = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(checkpoint), json.dumps(options)],
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(popen.communicate)
            stack.callback(popen.kill)
            assert popen.stderr is not None
            line = popen.stderr.readline()
            assert line.startswith("listening on "), line + popen.stderr.read()
            address = urlsplit(line.split()[-1])
            found = Process(str(address.hostname), int(address.port or 0), popen)
            if gate is None:
                until(lambda: found.ask("GET", "/health").status == 200)
            return found

        yield started


def stream_of(server: Process, **body: Any) -> http.client.HTTPResponse:
    """A stream whose first event has come."""
    answer = server.ask("POST", "/v1/completions", {**ENDLESS, "stream": True, **body})
    assert answer.status == 200
    assert answer.readline().startswith(b"data: ")
    return answer


def test_health_says_loading_until_the_model_is_there(start: Start, tmp_path: Path) -> None:
    server = start(gate=tmp_path / "gate")
    answer = server.ask("GET", "/health")
    assert (answer.status, json.load(answer)["status"]) == (503, "loading")
    (tmp_path / "gate").touch()
    until(lambda: server.ask("GET", "/health").status == 200)


def test_a_stop_lets_answers_finish_and_takes_no_more(start: Start) -> None:
    server = start(step=0.01)
    kept = server.connection()
    assert server.ask("GET", "/health", connection=kept).read()
    streaming = stream_of(server, max_tokens=100)
    whole = server.connection()
    whole.request(
        "POST", "/v1/completions", json.dumps({**ENDLESS, "max_tokens": 100}), {"Content-Type": "application/json"}
    )
    until(lambda: server.open_answers() == 2)
    server.stop()
    lines = streaming.read().decode().split("\n\n")
    assert lines[-2] == "data: [DONE]"
    answer = json.load(whole.getresponse())
    assert answer["choices"][0]["text"] == "a" * 100
    server.end()
    with pytest.raises(ConnectionRefusedError):
        server.connection().connect()


def test_a_request_that_is_complete_only_when_it_stops_is_sent_away(start: Start) -> None:
    server = start()
    body = json.dumps(ENDLESS).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked = server.raw(head + b"Content-Length: %d\r\n\r\n" % len(body))
    streaming = stream_of(server, max_tokens=300)
    server.stop()
    until(lambda: _refuses(server))
    asked.sendall(body)
    assert b" 503 " in _all(asked).split(b"\r\n")[0]
    assert streaming.read().endswith(b"data: [DONE]\n\n")
    server.end()


def test_answers_that_take_too_long_end_with_a_word(start: Start) -> None:
    """After ``stop_timeout``: a stream with an event, a whole answer with 503, and the process with 0."""
    server = start(stop_timeout=0.3)
    streaming = stream_of(server)
    whole = server.connection()
    whole.request("POST", "/v1/completions", json.dumps(ENDLESS), {"Content-Type": "application/json"})
    until(lambda: server.open_answers() == 2)
    server.stop()
    last = streaming.read().decode().strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"
    answer = whole.getresponse()
    assert (answer.status, json.load(answer)["error"]["code"]) == (503, "unavailable")
    assert "Traceback" not in server.end()


def test_who_waits_for_a_model_when_time_is_up_is_told_too(start: Start, tmp_path: Path) -> None:
    server = start(gate=tmp_path / "gate", stop_timeout=0)
    waiting = server.connection()
    waiting.request(
        "POST",
        "/v1/messages",
        json.dumps({"model": "other", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}),
        {"Content-Type": "application/json"},
    )
    time.sleep(0.2)
    server.stop()
    answer = waiting.getresponse()
    assert (answer.status, json.load(answer)["error"]["type"]) == (503, "overloaded_error")
    (tmp_path / "gate").touch()
    server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(start: Start, number: int) -> None:
    server = start(stop_timeout=3600)
    streaming = stream_of(server)
    server.stop(number)
    until(lambda: _refuses(server))
    assert streaming.readline() is not None  # it goes on
    server.stop(number)
    assert "Traceback" not in server.end()


def test_it_can_be_started_again_at_once(start: Start) -> None:
    """On the port where the first one's connections still linger."""
    server = start(stop_timeout=0)
    streaming = stream_of(server)
    server.stop()
    server.end()
    again = start(port=server.port)
    assert again.port == server.port
    streaming.close()


def _refuses(server: Process) -> bool:
    try:
        server.connection().connect()
    except ConnectionRefusedError:
        return True
    return False


def _all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


# --- clients that are gone


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_frees_its_places(start: Start, stream: bool, n: int) -> None:
    server = start()
    connection = server.connection()
    body = json.dumps({**ENDLESS, "stream": stream, "n": n})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    until(lambda: server.open_answers() == n)
    connection.close()
    until(lambda: server.open_answers() == 0)
    assert json.loads(server.read("/v1/status"))["models"][0]["meta"]["state"] == "loaded"


def test_a_client_that_leaves_while_a_model_loads_asks_nothing(start: Start, tmp_path: Path) -> None:
    server = start(gate=tmp_path / "gate")
    connection = server.connection()
    connection.request("POST", "/v1/completions", json.dumps(ENDLESS), {"Content-Type": "application/json"})
    time.sleep(0.2)
    connection.close()
    (tmp_path / "gate").touch()
    until(lambda: server.ask("GET", "/health").status == 200)
    assert server.open_answers() == 0
    assert 'path="/v1/completions",status="499"' in server.read("/metrics")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="connections are listed in /proc on Linux")
def test_a_client_that_takes_nothing_is_given_up(start: Start) -> None:
    """Its answer ends, and so does its connection, although it never takes what was sent to it."""
    server = start(step=0.0, write_seconds=0.5, ping_seconds=0.2)
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True, "logprobs": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sleeper = server.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body, window=4096)
    until(lambda: server.open_answers() == 1)
    assert _at_the_servers(sleeper)
    until(lambda: server.open_answers() == 0)
    until(lambda: not _at_the_servers(sleeper))


def _at_the_servers(connection: socket.socket) -> list[str]:
    """The server's end of a connection, as the system lists it."""
    ends = [f":{one[1]:04X}" for one in (connection.getpeername(), connection.getsockname())]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return [line[3] for line in lines if line[1].endswith(ends[0]) and line[2].endswith(ends[1])]


def test_head_has_no_body_and_keeps_the_connection(start: Start) -> None:
    server = start()
    kept = server.connection()
    for path in ("/health", "/v1/models", "/"):
        answer = server.ask("HEAD", path, connection=kept)
        assert (answer.status, answer.read()) == (200, b"")
        assert int(answer.headers["content-length"]) > 0
    assert json.load(server.ask("GET", "/health", connection=kept)) == {"status": "ok"}


# --- bodies


def test_a_large_body_is_refused_before_it_is_sent(start: Start) -> None:
    server = start(max_body=10_000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked = server.raw(head + b"Content-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n")
    assert asked.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_that_is_sent_all_the_same_hurts_nobody(start: Start) -> None:
    server = start(max_body=10_000)
    answer = server.ask("POST", "/v1/completions", {"prompt": "a" * 3_000_000})
    assert answer.status == 413
    assert server.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 3}).status == 200


def test_a_body_without_end_is_refused_when_it_is_too_long(start: Start) -> None:
    server = start(max_body=10_000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked = server.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 3)
    assert asked.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_stops_coming_is_given_up(start: Start) -> None:
    server = start(body_seconds=0.2)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked = server.raw(head + b'Content-Length: 100\r\n\r\n{"prompt": ')
    assert asked.recv(65536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 1000])
def test_what_is_no_http_is_refused(start: Start, junk: bytes) -> None:
    server = start()
    assert b" 400 " in _all(server.raw(junk))[:20]
    assert server.ask("GET", "/health").status == 200
