"""One HTTP exchange over a plain socket, as well or as badly as a client can behave.

A real client library would mend most of what is wanted here: bodies that stop, answers that nobody reads, bytes that
are no HTTP. So this writes requests by hand and reads answers to their end.
"""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

_JOINT = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An answer as it came. ``whole``: by its length, or by the end of its chunks, nothing is missing."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def events(self) -> list[Any]:
        """The JSON of each ``data:`` line, ``"[DONE]"`` as it is."""
        lines = [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]
        return ["[DONE]" if line.strip() == b"[DONE]" else json.loads(line) for line in lines]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where to, and with which key."""

    host: str
    port: int
    key: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def head(self, method: str, path: str, length: int | None = None, kind: str = "application/json") -> bytes:
        """The lines before a body of that length; none without one."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close"]
        if self.key:
            lines.append(f"Authorization: Bearer {self.key}")
        if length is not None:
            lines += [f"Content-Type: {kind}", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    def post(self, path: str, body: Any) -> bytes:
        """A whole POST: bytes as they are, anything else as JSON."""
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.head("POST", path, len(sent)) + sent


@asynccontextmanager
async def connected(target: Target, receive_buffer: int | None = None) -> AsyncIterator[Streams]:
    """A connection; closed at once at the end, whatever the other side still has to say."""
    made = socket.socket()
    made.setblocking(False)
    if receive_buffer is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(made, (target.host, target.port))
    except BaseException:
        made.close()
        raise
    limit = 2**16 if receive_buffer is None else receive_buffer
    reader, writer = await asyncio.open_connection(sock=made, limit=limit)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange(target: Target, request: bytes) -> Reply:
    """Send a request and read its answer to the end. A server that answers before it has read everything is heard.

    Raises ``ConnectionError`` where the connection ends without an answer.
    """
    async with connected(target) as (reader, writer):
        writer.write(request)
        with suppress(ConnectionError):
            await writer.drain()
        return await read_reply(reader)


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """The answer that comes on a connection. Raises ``ConnectionError`` where none does."""
    kept = bytearray()
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            kept += data
    return parse_reply(bytes(kept))


def parse_reply(kept: bytes) -> Reply:
    """All bytes of a connection as an answer. Raises ``ConnectionError`` where they are none."""
    head, found, body = kept.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/1.1 "):
        raise ConnectionError(f"no answer, only {kept[:80]!r}")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        whole = body.endswith(b"0\r\n\r\n")
        body = _JOINT.sub(b"", b"\r\n" + body).removesuffix(b"\r\n")
    else:
        length = headers.get("content-length")
        whole = length is None or len(body) == int(length)
    return Reply(status=int(lines[0][9:12]), headers=headers, body=body, whole=whole)
