"""Server-sent events: a response that notices a client who is gone or has stopped reading, and pings in silence.

Events are bytes, complete with their blank line. A stream that breaks after its beginning says so in an event of the
dialect's own; that is the iterator's business.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from time import monotonic
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from whimbrel.server.settings import ServerSettings

T = TypeVar("T")

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # made once: json.dumps makes one a call


class ClientGone(Exception):
    """Nobody is there to take the answer."""


def data(value: Any) -> bytes:
    """One event of JSON."""
    return b"data: " + _encode(value).encode() + b"\n\n"


def event(name: str, value: Any) -> bytes:
    """One event with a name."""
    return b"event: " + name.encode() + b"\n" + data(value)


class EventStream(Response):
    """200 and a stream of events; the iterator is closed whatever happens."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        settings: ServerSettings,
        *,
        ping: bytes = PING,
        media_type: str | None = None,
    ) -> None:
        """``ping`` is sent after ``settings.ping_seconds`` of silence; b"": nothing is."""
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._settings = settings
        self._ping = ping
        self._sending: float | None = None
        self._sent = monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until they end or the client is gone."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        watch = asyncio.create_task(self._watch(receive, send))
        work = asyncio.create_task(self._send_all(send))
        try:
            await asyncio.wait({watch, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (watch, work):
                task.cancel()
            await asyncio.gather(watch, work, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        try:
            async for chunk in self._events:
                await self._send(send, chunk)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            aclose = getattr(self._events, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _send(self, send: Send, chunk: bytes) -> None:
        self._sending = monotonic()
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._sending, self._sent = None, monotonic()

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Returns when the client is gone, or has taken nothing for too long."""
        gone = asyncio.create_task(_disconnected(receive))
        interval = min(self._settings.ping_seconds, self._settings.write_seconds)
        try:
            while not gone.done():
                await asyncio.wait({gone}, timeout=interval)
                now = monotonic()
                if self._sending is not None:
                    if now - self._sending > self._settings.write_seconds:
                        return
                elif self._ping and not gone.done() and now - self._sent >= self._settings.ping_seconds:
                    await send({"type": "http.response.body", "body": self._ping, "more_body": True})
                    self._sent = monotonic()
        finally:
            gone.cancel()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client goes away. Raises ``ClientGone`` then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def merged(sources: list[AsyncIterator[T]]) -> AsyncIterator[tuple[int, T]]:
    """Items of several iterators as they come, each with its source's number."""
    if len(sources) == 1:  # the usual case, without a task per item
        async for item in sources[0]:
            yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T | None, BaseException | None]] = asyncio.Queue()

    async def pump(number: int, source: AsyncIterator[T]) -> None:
        try:
            async for item in source:
                queue.put_nowait((number, item, None))
        except Exception as error:  # noqa: BLE001  (raised again by whoever takes it)
            queue.put_nowait((number, None, error))
        else:
            queue.put_nowait((number, None, None))

    tasks = [asyncio.create_task(pump(number, source)) for number, source in enumerate(sources)]
    try:
        left = len(tasks)
        while left:
            number, taken, error = await queue.get()
            if error is not None:
                raise error
            if taken is None:
                left -= 1
            else:
                yield number, taken
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
