"""Embeddings: the prompt's hidden states after the final norm, whatever chunks it is read in."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from whimbrel.backends.llm import LLM
from whimbrel.errors import InvalidParameter, UsageError
from whimbrel.ops import dispatch

WHY_NO_NATIVE = dispatch.get("attend").why_not("native")
pytestmark = pytest.mark.skipif(WHY_NO_NATIVE is not None, reason=str(WHY_NO_NATIVE))

TEXT = (
    "The whimbrel is a large wader. It breeds across much of subarctic North America and Europe, and winters south. "
    * 4
)


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[LLM]:
    with LLM(smollm2, context=1024, max_sequences=4, cache_bytes=100 << 20) as llm:
        yield llm


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_chunks_company_and_the_cache_change_nothing(model: LLM, smollm2: Path, pooling: str) -> None:
    whole = model.embed(TEXT, pooling=pooling)
    assert whole.vector.shape == (576,) and whole.vector.dtype == np.float32 and np.isfinite(whole.vector).all()
    model.generate(TEXT, max_tokens=1)  # its blocks are in the cache now
    stream = model.stream("Company.", max_tokens=64, ignore_eos=True)
    next(stream)
    np.testing.assert_array_equal(model.embed(TEXT, pooling=pooling).vector, whole.vector)
    stream.close()
    with LLM(smollm2, context=1024, prefill_chunk=37) as chunked:
        np.testing.assert_array_equal(chunked.embed(TEXT, pooling=pooling).vector, whole.vector)


def test_the_reference_ops_agree(smollm2: Path, model: LLM) -> None:
    with LLM(smollm2, context=256, ops="reference") as reference:
        for pooling in ("mean", "last"):
            a, b = (
                llm.embed("The tide is out, and the birds are in.", pooling=pooling).vector
                for llm in (model, reference)
            )
            assert cosine(a, b) > 0.999


def test_the_mean_of_one_token_is_the_last(model: LLM) -> None:
    np.testing.assert_array_equal(model.embed([504], pooling="mean").vector, model.embed([504], pooling="last").vector)


def test_what_means_the_same_is_nearer(model: LLM) -> None:
    said, again, other = (
        model.embed(text).vector
        for text in (
            "The cat sat on the mat in the kitchen.",
            "In the kitchen, a cat was sitting on the mat.",
            "Interest rates rose again after the central bank's meeting.",
        )
    )
    assert cosine(said, again) > cosine(said, other) + 0.05


def test_wrong_questions(model: LLM) -> None:
    with pytest.raises(InvalidParameter, match="max"):
        model.embed("Hello", pooling="max")
    with pytest.raises(UsageError, match="empty"):
        model.embed("")
