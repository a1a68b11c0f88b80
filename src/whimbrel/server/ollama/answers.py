"""What chat and generate do alike: tell an answer, load or unload a model, and note how long it stays."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from time import monotonic
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from whimbrel.server.ollama.fields import AnswerBody, ModelBody
from whimbrel.server.ollama.lines import MEDIA_TYPE, Content, Extra, Telling, durations, line, now
from whimbrel.server.pool import Resident
from whimbrel.server.service import Answers, Service
from whimbrel.server.single import collected, told
from whimbrel.server.sse import EventStream


async def tell(
    request: Request,
    body: AnswerBody,
    answers: Answers,
    content: Content,
    since: float,
    extra: Extra = lambda _: {},
) -> Response:
    """The answer, in lines unless ``stream`` is false. Nobody but the answer may hold the model any more."""
    service: Service = request.app.state.service
    resident = answers[0].resident
    keep(body, resident)
    telling = Telling(answers[0], since, content, extra)
    if body.stream is not False:
        chunks = then_unload(told(request, answers, telling), service, resident)
        return EventStream(chunks, service.settings, ping=b"", media_type=MEDIA_TYPE)
    completion, blocks = await collected(request, answers)
    await unload_if_asked(service, resident)
    return JSONResponse(telling.whole(completion, blocks))


async def load_only(request: Request, body: AnswerBody, content: dict[str, Any]) -> Response:
    """No prompt: the model is loaded, or with ``keep_alive`` 0 unloaded."""
    service: Service = request.app.state.service
    since, name = monotonic(), service.pool.find(body.model)
    if body.keep_seconds == 0:
        if (resident := service.pool.residents.get(name)) is not None:
            keep(body, resident)
            await unload_if_asked(service, resident)
        reason, loaded = "unload", 0.0
    else:
        async with service.pool.use(name) as resident:
            keep(body, resident)
            reason, loaded = "load", resident.loaded
    last = {
        "model": name,
        "created_at": now(),
        **content,
        "done": True,
        "done_reason": reason,
        **durations(since, loaded),
    }
    return JSONResponse(last) if body.stream is False else Response(line(last), media_type=MEDIA_TYPE)


def keep(body: ModelBody, resident: Resident) -> None:
    """The model stays as long as the last request said."""
    if (seconds := body.keep_seconds) is not None:
        resident.keep_alive = seconds


async def unload_if_asked(service: Service, resident: Resident) -> None:
    """At once where nobody else uses the model; otherwise the pool does it when they are done."""
    if resident.keep_alive == 0:
        await service.pool.unload(resident.name)


async def then_unload(chunks: AsyncGenerator[bytes], service: Service, resident: Resident) -> AsyncIterator[bytes]:
    """The same chunks, and afterwards what ``unload_if_asked`` does."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
    finally:
        await unload_if_asked(service, resident)
