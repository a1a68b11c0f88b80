"""Vectors of texts, over a tiny model that really computes them."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from whimbrel.backends.llm import LLM
from whimbrel.ops import dispatch

Serve = Callable[..., TestClient]

PATH = "/v1/embeddings"
TEXTS = [f"Number {number} is a whimbrel." * (1 + number % 5) for number in range(40)]


@pytest.fixture(scope="module")
def llm(checkpoint: Path) -> Iterator[LLM]:
    """A tiny model, opened once; skipped where the native kernels are missing."""
    why_not = dispatch.get("attend").why_not("native")
    if why_not is not None:
        pytest.skip(why_not)
    with LLM(checkpoint, context=256, max_sequences=4) as opened:
        yield opened


@pytest.fixture
def client(serve: Serve, checkpoint: Path, llm: LLM) -> TestClient:
    """A server of its own for each test, since it closes its models."""
    return serve(load=lambda _: LLM(checkpoint, context=256, max_sequences=4))


def vectors(client: TestClient, input: Any, **body: Any) -> np.ndarray[Any, Any]:
    answer = client.post(PATH, json={"input": input, **body})
    assert answer.status_code == 200, answer.text
    entries = answer.json()["data"]
    assert [entry["index"] for entry in entries] == list(range(len(entries)))
    return np.array([entry["embedding"] for entry in entries])


def test_vectors_have_length_one_and_their_texts_order(client: TestClient, llm: LLM) -> None:
    found = vectors(client, TEXTS)
    assert found.shape == (len(TEXTS), 192) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for text, vector in zip(TEXTS, found, strict=True):
        alone = llm.embed(text).vector
        assert np.allclose(vector, alone / np.linalg.norm(alone), atol=1e-5)


def test_ids_are_texts_too(client: TestClient, llm: LLM) -> None:
    ids = llm.tokenize(TEXTS[0])
    text, one, several = vectors(client, TEXTS[0]), vectors(client, ids), vectors(client, [ids, ids])
    assert np.array_equal(text, one) and np.array_equal(several, np.vstack([one, one]))


def test_the_last_token_can_stand_for_all(client: TestClient, llm: LLM) -> None:
    last = llm.embed(TEXTS[0], pooling="last").vector
    assert np.allclose(vectors(client, TEXTS[0], pooling="last"), last / np.linalg.norm(last), atol=1e-5)
    assert not np.allclose(vectors(client, TEXTS[0]), vectors(client, TEXTS[0], pooling="last"), atol=1e-2)


def test_base64_is_the_same_numbers(client: TestClient) -> None:
    sent = client.post(PATH, json={"input": "A gull.", "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(sent), dtype="<f4"), vectors(client, "A gull.")[0], atol=1e-7)


def test_tokens_are_counted(client: TestClient, llm: LLM) -> None:
    usage = client.post(PATH, json={"input": TEXTS[:2]}).json()["usage"]
    count = sum(len(llm.tokenize(text)) for text in TEXTS[:2])
    assert usage == {"prompt_tokens": count, "total_tokens": count}


def test_the_models_own_dimensions_are_no_error(client: TestClient) -> None:
    assert vectors(client, "A gull.", dimensions=192).shape == (1, 192)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"dimensions": 64}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"pooling": "max"}, "pooling"),
        ({"input": [320]}, None),
        ({"input": ["a", "word " * 300]}, None),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused(client: TestClient, wrong: dict[str, Any], param: str | None) -> None:
    answer = client.post(PATH, json={"input": "a", **wrong})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text
    service = client.app.state.service  # type: ignore[attr-defined]
    assert all(one.users == 0 and one.driver.open_answers == 0 for one in service.pool.residents.values())


def test_a_backend_without_hidden_states_says_so(serve: Serve) -> None:
    answer = serve().post(PATH, json={"input": "a"})
    assert answer.status_code == 400 and "hidden states" in answer.json()["error"]["message"]


def test_ollamas_paths_give_the_same_vectors(client: TestClient) -> None:
    found = vectors(client, TEXTS[:3])
    answer = client.post("/api/embed", json={"model": "scripted", "input": TEXTS[:3]}).json()
    assert np.allclose(answer["embeddings"], found, atol=1e-6) and answer["prompt_eval_count"] > 10
    (alone,) = client.post("/api/embed", json={"input": TEXTS[0]}).json()["embeddings"]
    old = client.post("/api/embeddings", json={"prompt": TEXTS[0]}).json()["embedding"]
    assert alone == old and np.allclose(alone, found[0], atol=1e-6)
    ignored = client.post("/api/embed", json={"input": "a", "truncate": True, "options": {"num_ctx": 9}})
    assert ignored.headers["x-ignored-params"] == "truncate, options.num_ctx"
    assert client.post("/api/embed", json={"input": "a", "dimensions": 64}).status_code == 400
