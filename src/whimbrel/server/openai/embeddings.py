"""``/v1/embeddings``: what a language model makes of a text, as a vector."""

import base64
from typing import Any, ClassVar

import numpy as np
from fastapi import APIRouter, Request

from whimbrel.server.documented import ERRORS
from whimbrel.server.embedding import Vector, embed, normalized
from whimbrel.server.envelope import note
from whimbrel.server.errors import ApiError
from whimbrel.server.fields import Body
from whimbrel.server.service import Service
from whimbrel.server.sse import while_connected

router = APIRouter()

FORMATS = ("float", "base64")


class EmbeddingBody(Body):
    """OpenAI's fields, and our ``pooling`` ("mean" or "last")."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"user"})

    input: str | list[str] | list[int] | list[list[int]]
    model: str | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    pooling: str | None = None

    def inputs(self) -> list[str | list[int]]:
        """One or several texts, or their ids."""
        given = self.input
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            return [given]
        return list(given)  # type: ignore[arg-type]


@router.post("/v1/embeddings", responses=ERRORS)
async def embeddings(body: EmbeddingBody, request: Request) -> dict[str, Any]:
    """One vector of length 1 for each input: the mean of its tokens' last hidden states, unless ``pooling`` is "last"."""
    service: Service = request.app.state.service
    body.settle(request)
    form = body.encoding_format or "float"
    if form not in FORMATS:
        raise ApiError(400, f"encoding_format is {form!r}; there are {', '.join(FORMATS)}", param="encoding_format")
    async with service.pool.use(body.model) as resident:
        found = await while_connected(request, embed(resident, body.inputs(), body.pooling or "mean", body.dimensions))
    tokens = sum(len(one.token_ids) for one in found)
    note(request.scope, model=resident.name, prompt_tokens=tokens)
    vectors = [normalized(one) for one in found]
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": _encoded(one, form)} for i, one in enumerate(vectors)
        ],
        "model": resident.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _encoded(vector: Vector, form: str) -> Any:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(value) for value in vector.astype(np.float64)]
