"""Ollama's API: JSON lines, options under their own names, models that come and go."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from whimbrel.backends.llm import LLM
from whimbrel.models.chat import ChatTemplate

Serve = Callable[..., TestClient]
Read = Callable[..., str]

CHAT, GENERATE = "/api/chat", "/api/generate"
QUESTION = [{"role": "user", "content": "Hi"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FIGURES = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


def whole(client: TestClient, path: str = CHAT, **body: Any) -> dict[str, Any]:
    default = {"messages": QUESTION} if path == CHAT else {"prompt": "Hi"}
    answer = client.post(path, json={"model": "scripted", "stream": False, **default, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def lines(client: TestClient, path: str = CHAT, **body: Any) -> list[dict[str, Any]]:
    default = {"messages": QUESTION} if path == CHAT else {"prompt": "Hi"}
    answer = client.post(path, json={"model": "scripted", **default, **body})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def options_of(client: TestClient) -> Any:
    """The sampling parameters of the last request."""
    return client.llm.executor.requests[-1].params  # type: ignore[attr-defined]


# --- answers


def test_a_chat_answers_with_figures(serve: Serve) -> None:
    answer = whole(serve("some words"))
    assert answer["message"] == {"role": "assistant", "content": "some words"}
    assert answer["model"] == "scripted" and answer["done"] is True and answer["done_reason"] == "stop"
    assert datetime.fromisoformat(answer["created_at"]).tzinfo is not None
    assert all(isinstance(answer[name], int) and answer[name] >= 0 for name in FIGURES)
    assert answer["eval_count"] == len("some words") + 1 and answer["prompt_eval_count"] > 5
    assert answer["load_duration"] == 0, "the model was there already"


@pytest.mark.parametrize("path", [CHAT, GENERATE])
def test_lines_add_up_to_the_whole_answer(serve: Serve, thinking: ChatTemplate, call_text: str, path: str) -> None:
    client = serve(f"<think>Hm.</think>I look. {call_text if path == CHAT else ''}")
    client.llm.chat_template = thinking  # type: ignore[attr-defined]
    tools = {"tools": [TOOL]} if path == CHAT else {}
    expected, told = whole(client, path, **tools), lines(client, path, **tools)
    assert [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
    parts = [line["message"] if path == CHAT else line for line in told]
    content, said = ("content", expected["message"]) if path == CHAT else ("response", expected)
    assert "".join(part[content] for part in parts) == said[content]
    assert said[content].rstrip() == "I look."
    assert "".join(part.get("thinking", "") for part in parts) == said["thinking"] == "Hm."
    if path == CHAT:
        (call,) = [call for part in parts for call in part.get("tool_calls", ())]
        assert call["function"] == {"name": "get_weather", "arguments": {"city": "Oslo"}}
        assert [call["function"]] == [one["function"] for one in said["tool_calls"]]
    assert told[-1]["eval_count"] == expected["eval_count"]


def test_a_limit_ends_an_answer(serve: Serve) -> None:
    client = serve("some words")
    cut = whole(client, options={"num_predict": 4})
    assert cut["message"]["content"] == "some" and cut["done_reason"] == "length" and cut["eval_count"] == 4
    assert whole(client, options={"num_predict": -1})["done_reason"] == "stop"
    assert whole(client, options={"num_predict": 10**6})["done_reason"] == "stop", "more than the context has"


def test_options_have_ollamas_names(serve: Serve) -> None:
    client = serve()
    given = {
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 3.0,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "seed": 7,
        "stop": ["x"],
    }
    answer = client.post(CHAT, json={"model": "scripted", "messages": QUESTION, "options": given})
    assert "x-ignored-params" not in answer.headers
    params = options_of(client)
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (1, 0.5, 3, 0.1)
    assert params.repetition_penalty == 1.1 and params.seed == 7
    whole(client, options={"seed": -1})
    assert options_of(client).seed is None


def test_options_of_loading_are_named_unless_they_are_so(serve: Serve) -> None:
    client = serve()
    context = client.llm.context  # type: ignore[attr-defined]

    def ignored(**body: Any) -> str | None:
        answer = client.post(CHAT, json={"model": "scripted", "messages": QUESTION, **body})
        assert answer.status_code == 200
        named: str | None = answer.headers.get("x-ignored-params")
        return named

    assert ignored(options={"num_ctx": context, "num_gpu": None}) is None
    assert ignored(options={"num_ctx": context + 1, "mirostat": 1}) == "options.num_ctx, options.mirostat"
    assert ignored(think="high", shift=True, top_logprobs=3) == "shift, think, top_logprobs"


def test_log_probabilities(serve: Serve) -> None:
    client = serve("ab")
    answer = whole(client, logprobs=True)
    assert [one["token"] for one in answer["logprobs"]][:2] == ["a", "b"]
    told = [one for line in lines(client, logprobs=True) for one in line.get("logprobs", ())]
    assert [one["token"] for one in told] == ["a", "b"]


def test_thinking_is_switched(serve: Serve, thinking: ChatTemplate, read: Read) -> None:
    client = serve("Yes.")
    client.llm.chat_template = thinking  # type: ignore[attr-defined]
    for think, off in ((False, True), (True, False), (None, False)):
        whole(client, think=think)
        assert read(client).endswith("<think></think>") is off


def test_calls_and_results_are_read(serve: Serve, read: Read) -> None:
    client = serve("Sunny.")
    call = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "clear", "tool_name": "get_weather"},
    ]
    whole(client, messages=turns, tools=[TOOL])
    prompt = read(client)
    assert prompt.rindex("Weather?") < prompt.rindex("Oslo") < prompt.rindex("clear")


# --- generate


def test_generate_goes_through_the_template_unless_it_is_raw(serve: Serve, read: Read) -> None:
    client = serve("ok")
    whole(client, GENERATE, system="Be brief.")
    assert (
        read(client)
        == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = whole(client, GENERATE, raw=True)
    assert "<|im_start|>" not in read(client) and read(client).endswith("Hi") and "context" not in answer


def test_a_context_is_a_conversation(serve: Serve, read: Read) -> None:
    client = serve("One.", "Two.")
    first = whole(client, GENERATE)
    answer = client.post(
        GENERATE,
        json={"model": "scripted", "prompt": "More?", "context": first["context"], "system": "x", "stream": False},
    )
    assert answer.headers["x-ignored-params"] == "system"
    turns = [*QUESTION, {"role": "assistant", "content": "One."}, {"role": "user", "content": "More?"}]
    expected = client.llm.render(turns)  # type: ignore[attr-defined]
    ended = read(client).replace("</s>", "")  # what ended the scripted answer isn't the template's end of a turn
    assert ended == expected
    assert answer.json()["context"][: len(first["context"])] == first["context"]


def test_what_fills_gaps_or_sees_is_refused(serve: Serve) -> None:
    client = serve()
    for wrong in ({"suffix": "end"}, {"images": ["aGk="]}):
        answer = client.post(GENERATE, json={"model": "scripted", "prompt": "Hi", **wrong})
        assert answer.status_code == 400 and next(iter(wrong)) in answer.json()["error"]
    seen = [{"role": "user", "content": "Hi", "images": ["aGk="]}]
    assert client.post(CHAT, json={"model": "scripted", "messages": seen}).status_code == 400


# --- models that come and go


def resident(client: TestClient) -> Any:
    return client.app.state.service.pool.residents.get("scripted")  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", [CHAT, GENERATE])
def test_keep_alive_zero_unloads_after_the_answer(
    serve: Serve, scripted: Callable[..., LLM], path: str, stream: bool
) -> None:
    client = serve(load=lambda _: scripted("some words"))
    (lines if stream else whole)(client, path, keep_alive=0)
    assert resident(client) is None
    answer = whole(client, path)
    assert answer["load_duration"] > 0 and resident(client).keep_alive is None, "loaded anew, and stays"


@pytest.mark.parametrize("path", [CHAT, GENERATE])
def test_a_request_without_a_prompt_loads_or_unloads(serve: Serve, scripted: Callable[..., LLM], path: str) -> None:
    client = serve(load=lambda _: scripted("some words"))
    body = {"model": "scripted", "keep_alive": "0"}
    assert client.post(path, json=body).json()["done_reason"] == "unload" and resident(client) is None
    told = client.post(path, json={"model": "scripted", "keep_alive": "1h30m"}).json()
    assert told["done"] and told["done_reason"] == "load"
    assert resident(client).keep_alive == 5400
    assert client.post(path, json={"model": "nobody"}).status_code == 404


def test_a_model_leaves_when_its_time_is_over(
    serve: Serve, scripted: Callable[..., LLM], until: Callable[..., None]
) -> None:
    client = serve(load=lambda _: scripted("some words"))
    whole(client, keep_alive=0.01)
    until(lambda: resident(client) is None)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("5m", 300), ("1h", 3600), (-1, float("inf")), ("-1m", float("inf")), (90, 90), ("1.5s", 1.5)],
)
def test_durations(serve: Serve, given: Any, seconds: float) -> None:
    client = serve()
    whole(client, keep_alive=given)
    assert resident(client).keep_alive == seconds
    (model,) = client.get("/api/ps").json()["models"]
    left = datetime.fromisoformat(model["expires_at"]) - datetime.now(UTC)
    assert left > timedelta(days=365) if seconds == float("inf") else left <= timedelta(seconds=seconds)


WRONG: list[dict[str, Any]] = [
    {"keep_alive": "soon"},
    {"keep_alive": "nan"},
    {"keep_alive": "5 minutes"},
    {"format": "yaml"},
    {"options": {"temperature": "hot"}},
    {"options": {"temperature": True}},
    {"options": {"top_k": 1.5}},
    {"options": {"seed": float("inf")}},
    {"options": {"num_predict": float("nan")}},
    {"options": {"stop": 3}},
    {"messages": [{"role": "bird", "content": "a"}]},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
    {"tools": [{"type": "function"}]},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_is_wrong_is_refused(serve: Serve, wrong: dict[str, Any]) -> None:
    client = serve()
    body = json.dumps({"model": "scripted", "messages": QUESTION, **wrong})
    answer = client.post(CHAT, content=body)
    assert answer.status_code == 400 and set(answer.json()) == {"error"}, answer.text
    assert not client.llm.executor.requests and resident(client).users == 0  # type: ignore[attr-defined]


def test_a_body_is_json_whatever_it_is_called(serve: Serve) -> None:
    body = json.dumps({"model": "scripted", "messages": QUESTION, "stream": False})
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        answer = serve("ok").post(CHAT, content=body, headers={"content-type": kind})
        assert answer.json()["message"]["content"] == "ok"


def test_an_error_in_the_middle_is_a_line(serve: Serve, broken: Callable[..., None]) -> None:
    client = serve("some words")
    broken(client, 5)
    told = lines(client)
    assert set(told[-1]) == {"error"} and "secret" not in told[-1]["error"]
    assert whole(client)["message"]["content"] == "some words"


@pytest.mark.parametrize("path", ["pull", "create", "copy", "push", "delete"])
def test_what_is_done_on_the_command_line_says_so(serve: Serve, path: str) -> None:
    answer = serve().request("DELETE" if path == "delete" else "POST", f"/api/{path}", json={"model": "x"})
    assert answer.status_code == 404 and "whimbrel pull" in answer.json()["error"]


# --- what is known of models


def test_files_tell_what_a_model_is(serve: Serve, scripted: Callable[..., LLM], checkpoint: Path) -> None:
    """The model is there by its path; what answers is scripted, and knows nothing of it."""
    client = serve(models=(str(checkpoint),), load=lambda _: scripted("ok"))
    (listed,) = [model for model in client.get("/api/tags").json()["models"] if model["name"] == str(checkpoint)]
    assert listed["size"] == (checkpoint / "model.safetensors").stat().st_size
    assert listed["details"] == {
        "parent_model": "",
        "format": "safetensors",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "553.9K",
        "quantization_level": "FLOAT32",
    }
    shown = client.post("/api/show", json={"model": str(checkpoint)}).json()
    assert shown["details"] == listed["details"]
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 1024
    assert shown["capabilities"] == ["completion", "embedding", "tools"] and "im_start" in shown["template"]
    assert (datetime.now(UTC) - datetime.fromisoformat(shown["modified_at"])) < timedelta(days=1)
    (running,) = client.get("/api/ps").json()["models"]
    assert running["name"] == str(checkpoint) and running["context_length"] == 4096


def test_a_description_loads_nothing(serve: Serve, scripted: Callable[..., LLM], checkpoint: Path) -> None:
    client = serve(models=("scripted", str(checkpoint)), load=lambda _: scripted("ok"))
    shown = client.post("/api/show", json={"name": str(checkpoint)}).json()
    assert "im_start" in shown["template"] and list(client.app.state.service.pool.residents) == ["scripted"]  # type: ignore[attr-defined]
    bare = client.post("/api/show", json={"model": "scripted"}).json()
    assert bare["model_info"] == {} and bare["details"]["family"] == "", "nothing is made up"
