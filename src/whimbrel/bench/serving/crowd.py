"""Many clients in one process, cheap enough to share two cores with the server that they measure.

    python -m whimbrel.bench.serving.crowd

Each line of standard input is a ``Load`` as JSON; each line of standard output the list of its ``Answered``. A client
is one socket at a time, and while an answer comes it only looks for the first bytes of text in it; everything else is
read from what it kept once all clients have ended.
"""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from whimbrel.errors import WhimbrelError

_FIRST_TEXT = re.compile(rb'"(?:content|text)": ?"[^"]')
_JOINT = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")
SECONDS = 900


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request: where to, and the JSON of its body."""

    path: str
    body: Mapping[str, Any]
    after: float = 0.0
    """seconds to wait before it, counted from the end of the client's last one"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What each client asks, one after the other; all clients begin at once."""

    host: str
    port: int
    clients: Sequence[Sequence[Ask]]
    key: str = ""
    until_first_client_ends: bool = False
    """the others ask nothing more then"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """One answer; seconds since the load began."""

    client: int
    status: int
    start: float
    first: float | None
    """when the first text was here"""
    end: float
    last: float | None
    """when the last piece of text was here"""
    tokens: int
    finish: str | None
    text: str

    @property
    def first_seconds(self) -> float:
        """Time to the first token; infinite where there is none."""
        return float("inf") if self.first is None else self.first - self.start


class Crowd:
    """The clients' process. A context manager."""

    def __init__(self) -> None:
        """Starts the process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "whimbrel.bench.serving.crowd"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def run(self, load: Load) -> list[Answered]:
        """Run a load to its end. Raises ``WhimbrelError`` if the process dies."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(load)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WhimbrelError(f"the clients' process ended with code {self._process.wait()} and no answers")
        return [Answered(**entry) for entry in json.loads(line)]

    def close(self) -> None:
        """End the process. Idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._process.kill()
        self.close()


class _Connection(asyncio.Protocol):
    """Sends one request and keeps the bytes of its answer, and when text came."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.kept = bytearray()
        self.first: float | None = None
        self.last: float | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.kept += data
        if _FIRST_TEXT.search(data):
            self.last = time.perf_counter()
            self.first = self.first or self.last

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def run_load(load: Load) -> list[Answered]:
    """All clients of a load side by side."""
    began, over = time.perf_counter(), asyncio.Event()
    lists = await asyncio.gather(*(_client(load, number, began, over) for number in range(len(load.clients))))
    return [_read(*entry) for entries in lists for entry in entries]


async def _client(load: Load, number: int, began: float, over: asyncio.Event) -> list[tuple[Any, ...]]:
    done: list[tuple[Any, ...]] = []
    for ask in load.clients[number]:
        await asyncio.sleep(ask.after)
        if over.is_set():
            break
        start = time.perf_counter()
        connection = _Connection(_request(load, ask))
        await asyncio.get_running_loop().create_connection(partial(_itself, connection), load.host, load.port)
        async with asyncio.timeout(SECONDS):
            await connection.ended
        done.append((number, ask, connection, start, time.perf_counter(), began))
    if number == 0 and load.until_first_client_ends:
        over.set()
    return done


def _itself(connection: _Connection) -> _Connection:
    return connection


def _request(load: Load, ask: Ask) -> bytes:
    body = json.dumps(ask.body).encode()
    head = f"POST {ask.path} HTTP/1.1\r\nHost: {load.host}:{load.port}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    if load.key:
        head += f"Authorization: Bearer {load.key}\r\n"
    return head.encode() + b"\r\n" + body


def _read(number: int, ask: Ask, connection: _Connection, start: float, end: float, began: float) -> Answered:
    """What an answer was, from its bytes."""
    head, _, body = bytes(connection.kept).partition(b"\r\n\r\n")
    status = int(head[9:12] or 0)
    if b"chunked" in head.lower():
        body = _JOINT.sub(b"", b"\r\n" + body)
    pieces, tokens, finish = [], None, None
    for line in body.split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        for choice in event.get("choices", ()):
            pieces.append(choice.get("text") or (choice.get("delta") or {}).get("content") or "")
            finish = choice.get("finish_reason") or finish
    if tokens is None:  # a server without usage in streams; a piece is a token there
        tokens = ask.body["max_tokens"] if finish == "length" else sum(map(bool, pieces))
    times = [None if at is None else at - began for at in (connection.first, connection.last)]
    return Answered(
        client=number,
        status=status,
        start=start - began,
        first=times[0],
        last=times[1],
        end=end - began,
        tokens=tokens,
        finish=finish,
        text="".join(pieces),
    )


def main() -> None:
    """Run loads until standard input ends."""
    for line in sys.stdin:
        given = json.loads(line)
        clients = [[Ask(**ask) for ask in asks] for asks in given.pop("clients")]
        answers = asyncio.run(run_load(Load(clients=clients, **given)))
        print(json.dumps([asdict(answer) for answer in answers]), flush=True)


if __name__ == "__main__":
    main()
