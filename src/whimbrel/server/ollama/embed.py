"""``/api/embed``, and its older form ``/api/embeddings``."""

from time import monotonic
from typing import Any

from fastapi import APIRouter, Request

from whimbrel.server.documented import OLLAMA_ERRORS
from whimbrel.server.embedding import embed, normalized
from whimbrel.server.envelope import note
from whimbrel.server.ollama.answers import keep, unload_if_asked
from whimbrel.server.ollama.fields import AnyTypeIsJson, ModelBody
from whimbrel.server.ollama.lines import durations
from whimbrel.server.pool import Resident
from whimbrel.server.service import Service
from whimbrel.server.sse import while_connected

router = APIRouter(route_class=AnyTypeIsJson)


class _EmbedBody(ModelBody):
    """Nothing among Ollama's options has a meaning for vectors here."""

    def unsupported_options(self) -> list[str]:
        """All that are set."""
        return [f"options.{name}" for name, value in (self.options or {}).items() if value is not None]


class EmbedBody(_EmbedBody):
    """Ollama's fields. A text longer than the context is an error, whatever ``truncate`` says: nothing is cut quietly."""

    input: str | list[str]
    truncate: bool | None = None
    dimensions: int | None = None


class OldEmbedBody(_EmbedBody):
    """One text, under another name."""

    prompt: str


@router.post("/api/embed", responses=OLLAMA_ERRORS)
async def embed_texts(body: EmbedBody, request: Request) -> dict[str, Any]:
    """Vectors of length 1 for one text or several."""
    service: Service = request.app.state.service
    since = monotonic()
    texts = [body.input] if isinstance(body.input, str) else body.input
    async with service.pool.use(body.model) as resident:
        body.settle(request, *(["truncate"] if body.truncate else []), *body.unsupported_options())
        vectors, tokens = await _vectors(request, resident, texts, body.dimensions)
        keep(body, resident)
    await unload_if_asked(service, resident)
    figures = {**durations(since, resident.loaded), "prompt_eval_count": tokens}
    return {"model": resident.name, "embeddings": vectors, **figures}


@router.post("/api/embeddings", responses=OLLAMA_ERRORS)
async def embed_text(body: OldEmbedBody, request: Request) -> dict[str, Any]:
    """The vector of one text."""
    service: Service = request.app.state.service
    async with service.pool.use(body.model) as resident:
        body.settle(request, *body.unsupported_options())
        vectors, _ = await _vectors(request, resident, [body.prompt])
        keep(body, resident)
    await unload_if_asked(service, resident)
    return {"embedding": vectors[0]}


async def _vectors(
    request: Request, resident: Resident, texts: list[str], dimensions: int | None = None
) -> tuple[list[list[float]], int]:
    found = await while_connected(request, embed(resident, texts, dimensions=dimensions))
    tokens = sum(len(one.token_ids) for one in found)
    note(request.scope, model=resident.name, prompt_tokens=tokens)
    return [normalized(one).tolist() for one in found], tokens
