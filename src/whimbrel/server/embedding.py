"""Embeddings for any dialect: several texts at a time, in the engine's batches beside everybody's answers."""

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from whimbrel.backends.llm import LLM
from whimbrel.backends.results import Embedding
from whimbrel.server.errors import ApiError
from whimbrel.server.pool import Resident

MOST_INPUTS = 2048

Vector = npt.NDArray[np.float32]


async def embed(resident: Resident, inputs: Sequence[str | list[int]], pooling: str = "mean") -> list[Embedding]:
    """One embedding for each input, of length 1. Raises ``ApiError`` 400 for none or too many, and what ``embed`` raises."""
    if not 1 <= len(inputs) <= MOST_INPUTS:
        raise ApiError(400, f"{len(inputs)} inputs; give 1 to {MOST_INPUTS} in a request", param="input")
    several = asyncio.Semaphore(resident.llm.capabilities.max_sequences)

    async def one(given: str | list[int]) -> Embedding:
        async with several:
            return await asyncio.to_thread(_embed, resident.llm, given, pooling)

    return list(await asyncio.gather(*(one(given) for given in inputs)))


def _embed(llm: LLM, given: str | list[int], pooling: str) -> Embedding:
    return llm.embed(given, pooling=pooling)


def normalized(embedding: Embedding) -> Vector:
    """The vector at length 1, so that a dot product is the cosine."""
    vector = embedding.vector
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector
