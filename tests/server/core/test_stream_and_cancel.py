"""Answers on their way: what comes in which order, and what is left when nobody wants them any more."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

Serve = Callable[..., TestClient]

COMPLETIONS = "/v1/completions"


def events(client: TestClient, path: str, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream that ends as it should."""
    answer = client.post(path, json={**body, "stream": True})
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def joined(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """A choice put together from its chunks, as a whole answer has it."""
    mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    lists = [choice["logprobs"] for choice in mine if choice["logprobs"]]
    logprobs = {name: [one for part in lists for one in part[name] or []] for name in lists[0]} if lists else None
    reasons = [choice["finish_reason"] for choice in mine if choice["finish_reason"]]
    text = "".join(choice["text"] for choice in mine)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reasons[0]}


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize("max_tokens", [0, 3, 50])
def test_a_stream_says_what_the_whole_answer_says(
    serve: Serve, echo: bool, logprobs: int | None, max_tokens: int
) -> None:
    client = serve("some words")
    body = {"prompt": "The prompt", "echo": echo, "logprobs": logprobs, "max_tokens": max_tokens}
    whole = client.post(COMPLETIONS, json=body).json()["choices"][0]
    if echo:
        assert whole["text"].startswith("The prompt")
        assert logprobs is None or whole["logprobs"]["token_logprobs"][0] is None
    streamed = joined(events(client, COMPLETIONS, **body))
    assert (streamed["text"], streamed["finish_reason"]) == (whole["text"], whole["finish_reason"])
    for name, values in (whole["logprobs"] or {}).items():
        assert (streamed["logprobs"] or {}).get(name, []) == values, name
    assert client.llm.executor.open_streams == 0  # type: ignore[attr-defined]


def test_several_answers_have_their_own_index_and_one_usage(serve: Serve) -> None:
    client = serve("one", "two", "three")
    chunks = events(client, COMPLETIONS, prompt="Hi", n=3, stream_options={"include_usage": True})
    assert [joined(chunks, index)["text"] for index in range(3)] == ["one", "two", "three"]
    usage = chunks[-1]["usage"]
    whole = serve("one", "two", "three").post(COMPLETIONS, json={"prompt": "Hi", "n": 3}).json()["usage"]
    assert chunks[-1]["choices"] == []
    assert usage == whole
    assert usage["completion_tokens"] == len("onetwothree") + 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_an_error_in_the_middle_is_an_event(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The headers are sent by then; the next request is answered as if nothing had been."""
    client = serve("some words")
    executor = client.llm.executor  # type: ignore[attr-defined]
    step = executor._step

    def failing(number: int, request: Any, ids: Any, prompt: int, count: int, reason: Any) -> Any:
        if count == 4 and number == 0:
            raise RuntimeError("a secret of the server")
        return step(number, request, ids, prompt, count, reason)

    monkeypatch.setattr(executor, "_step", failing)
    answer = client.post(COMPLETIONS, json={"prompt": "Hi", "stream": True})
    last = json.loads(answer.text.strip().split("data: ")[-1])
    assert last["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert executor.open_streams == 0
    assert client.post(COMPLETIONS, json={"prompt": "Hi"}).json()["choices"][0]["text"] == "some words"
