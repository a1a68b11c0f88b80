"""Embeddings for any dialect: several texts at a time, in the engine's steps beside everybody's answers.

One request never has more than half of a model's places, so that thousands of texts keep nobody's answer waiting.
"""

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from whimbrel.backends.embedding import EmbeddingStream
from whimbrel.backends.results import Embedding
from whimbrel.server.errors import ApiError
from whimbrel.server.pool import Resident

MOST_INPUTS = 2048

Vector = npt.NDArray[np.float32]


async def embed(
    resident: Resident, inputs: Sequence[str | list[int]], pooling: str = "mean", dimensions: int | None = None
) -> list[Embedding]:
    """One embedding for each input. ``dimensions``: what the request wants; only the model's own will do.

    Raises ``ApiError`` 400 for no inputs, too many, an empty one or other dimensions; ``Busy``, and what ``LLM.embed``
    raises.
    """
    _check(inputs)
    _check_dimensions(resident, dimensions)
    left = iter(list(enumerate(inputs)))
    found: list[Embedding | None] = [None] * len(inputs)

    async def work() -> None:
        for index, given in left:
            found[index] = await _embed(resident, given, pooling)

    workers = min(len(inputs), max(1, resident.llm.capabilities.max_sequences // 2))
    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [one for one in found if one is not None]


def normalized(embedding: Embedding) -> Vector:
    """The vector at length 1, so that a dot product is the cosine."""
    vector = embedding.vector
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector


async def _embed(resident: Resident, given: str | list[int], pooling: str) -> Embedding:
    flow = await resident.driver.open(lambda llm: llm.embed_stream(given, pooling=pooling))
    try:
        await flow.drain()
    finally:
        flow.cancel()
    assert isinstance(flow.stream, EmbeddingStream)
    return flow.stream.embedding


def _check(inputs: Sequence[str | list[int]]) -> None:
    if not inputs:
        raise ApiError(400, "input is empty; give a text, or at least one of a list", param="input")
    if len(inputs) > MOST_INPUTS:
        raise ApiError(400, f"{len(inputs)} inputs; give at most {MOST_INPUTS} in a request", param="input")
    for index, given in enumerate(inputs):
        if not given:
            raise ApiError(400, f"input[{index}] is empty; give some text", param="input")


def _check_dimensions(resident: Resident, dimensions: int | None) -> None:
    config = resident.llm.config
    if dimensions is None or config is None or dimensions == config.hidden_size:
        return
    raise ApiError(
        400,
        f"dimensions is {dimensions}; this model's vectors have {config.hidden_size}, and were not trained to be cut",
        param="dimensions",
        code="unsupported",
    )
