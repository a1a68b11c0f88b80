"""The Responses API: items in and out, events, and what is kept from one request to the next."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from whimbrel.models.chat import ChatTemplate
from whimbrel.server.openai.response_store import ResponseStore

Serve = Callable[..., TestClient]
Read = Callable[..., str]

PATH = "/v1/responses"
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def ask(client: TestClient, input: Any = "Hi", **body: Any) -> dict[str, Any]:
    answer = client.post(PATH, json={"input": input, **body})
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


def refused(client: TestClient, status: int = 400, **body: Any) -> dict[str, Any]:
    answer = client.post(PATH, json={"input": "Hi", **body})
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def events(client: TestClient, input: Any = "Hi", **body: Any) -> list[dict[str, Any]]:
    """The events of a stream, whose names and numbers are as they should be."""
    answer = client.post(PATH, json={"input": input, "stream": True, **body})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for text in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = text.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def bare(response: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from one response to another that says the same."""
    items = [{key: value for key, value in item.items() if key not in {"id", "call_id"}} for item in response["output"]]
    return {**response, "id": "", "created_at": 0, "output": items}


# --- whole


def test_a_response_says_what_was_asked_and_answered(serve: Serve) -> None:
    response = ask(serve("some words"), instructions="Be brief.", max_output_tokens=50, metadata={"a": "b"}, top_p=0.5)
    assert response["id"].startswith("resp_") and response["object"] == "response"
    assert response["status"] == "completed" and response["error"] is response["incomplete_details"] is None
    (item,) = response["output"]
    assert item["type"] == "message" and item["role"] == "assistant" and item["status"] == "completed"
    (part,) = item["content"]
    assert part == {"type": "output_text", "text": "some words", "annotations": [], "logprobs": []}
    asked = {"instructions": "Be brief.", "max_output_tokens": 50, "metadata": {"a": "b"}, "top_p": 0.5}
    assert {name: response[name] for name in asked} == asked
    assert response["temperature"] == 0, "what the model's own configuration says, where nobody says anything"
    usage = response["usage"]
    assert usage["output_tokens"] == len("some words") + 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_it_fits_the_sdks_type(serve: Serve) -> None:
    from openai.types.responses import Response

    response = ask(serve("some words"), tools=[TOOL])
    response["usage"]["input_tokens_details"]["cache_write_tokens"] = 0  # nobody here counts what a cache is billed for
    assert Response.model_validate(response).output_text == "some words"


@pytest.mark.parametrize("answer", ["some words", "", " "])
@pytest.mark.parametrize("limit", [None, 3])
def test_a_stream_ends_in_what_the_whole_response_is(serve: Serve, answer: str, limit: int | None) -> None:
    client = serve(answer)
    whole, stream = ask(client, max_output_tokens=limit), events(client, max_output_tokens=limit)
    assert bare(stream[-1]["response"]) == bare(whole)
    assert stream[-1]["type"] == f"response.{whole['status']}"
    assert stream[0]["type"] == "response.created" and stream[0]["response"]["output"] == []
    text = "".join(event["delta"] for event in stream if event["type"] == "response.output_text.delta")
    assert text == whole["output"][0]["content"][0]["text"]


def test_a_response_cut_short_is_incomplete(serve: Serve) -> None:
    response = ask(serve("some words"), max_output_tokens=4)
    assert response["status"] == response["output"][-1]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["content"][0]["text"] == "some"


# --- thoughts and calls


def test_thoughts_words_and_calls_are_items(serve: Serve, thinking: ChatTemplate, call_text: str) -> None:
    client = serve(f"<think>Hm.</think>I look. {call_text}")
    client.llm.chat_template = thinking  # type: ignore[attr-defined]
    whole = ask(client, tools=[TOOL])
    thought, message, call = whole["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm."}] and thought["summary"] == []
    assert message["content"][0]["text"] == "I look."
    assert call["name"] == "get_weather" and json.loads(call["arguments"]) == {"city": "Oslo"} and call["call_id"]
    assert 0 < whole["usage"]["output_tokens_details"]["reasoning_tokens"] < whole["usage"]["output_tokens"]
    stream = events(client, tools=[TOOL])
    assert bare(stream[-1]["response"]) == bare(whole)
    kinds = [event["type"].removeprefix("response.") for event in stream]
    assert list(dict.fromkeys(kinds)) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_text.delta",
        "output_text.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "completed",
    ]
    for index, item in enumerate(stream[-1]["response"]["output"]):
        mine = [event for event in stream if event.get("output_index") == index]
        assert mine[0]["item"]["id"] == mine[-1]["item"]["id"] == item["id"] and mine[-1]["item"] == item
        assert {event["item_id"] for event in mine[1:-1]} == {item["id"]}
        assert mine[0]["item"]["status"] == "in_progress"


def test_thinking_can_be_switched_off(serve: Serve, thinking: ChatTemplate, read: Read) -> None:
    client = serve("Yes.")
    client.llm.chat_template = thinking  # type: ignore[attr-defined]
    ask(client, reasoning={"effort": "none"})
    assert read(client).endswith("<think></think>")
    ask(client)
    assert not read(client).endswith("<think></think>")


def test_a_call_and_its_result_are_read(serve: Serve, thinking: ChatTemplate, read: Read) -> None:
    client = serve("Sunny.")
    client.llm.chat_template = thinking  # type: ignore[attr-defined]
    ask(
        client,
        [
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "Weather in "}, {"type": "input_text", "text": "Oslo?"}],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Oslo"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "clear"},
        ],
        tools=[TOOL],
    )
    prompt = read(client)
    order = ["Weather in Oslo?", "<think>Hm.</think>", '"city": "Oslo"', "clear", "<|im_start|>assistant\n"]
    places = [prompt.rindex(text) for text in order]
    assert places == sorted(places)


# --- what is kept


def test_a_response_goes_on_from_another(serve: Serve, read: Read) -> None:
    client = serve("One.", "Two.", "Three.")
    first = ask(client, "First?", instructions="Count.")
    assert "<|im_start|>system\nCount." in read(client)
    second = ask(client, "Second?", previous_response_id=first["id"])
    third = ask(client, "Third?", previous_response_id=second["id"], instructions="Sing.")
    assert third["previous_response_id"] == second["id"]
    prompt = read(client)
    assert "Count." not in prompt, "instructions are those of one request"
    order = ["Sing.", "First?", "One.", "Second?", "Two.", "Third?"]
    assert [prompt.index(text) for text in order] == sorted(prompt.index(text) for text in order)
    assert client.get(f"{PATH}/{second['id']}").json() == second


def test_streamed_responses_are_kept_too(serve: Serve, read: Read) -> None:
    client = serve("One.", "Two.")
    first = events(client)[-1]["response"]
    assert client.get(f"{PATH}/{first['id']}").json() == first
    ask(client, "More?", previous_response_id=first["id"])
    assert "One." in read(client)


def test_items_that_were_read_can_be_listed(serve: Serve) -> None:
    client = serve("One.", "Two.")
    first = ask(client, "First?")
    second = ask(client, [{"role": "user", "content": "Second?"}], previous_response_id=first["id"])
    path = f"{PATH}/{second['id']}/input_items"
    whole = client.get(path, params={"order": "asc"}).json()
    assert [item["content"][0]["text"] for item in whole["data"]] == ["First?", "One.", "Second?"]
    assert whole["first_id"] == whole["data"][0]["id"] and not whole["has_more"]
    newest = client.get(path, params={"limit": 1}).json()
    assert newest["data"] == whole["data"][-1:] and newest["has_more"]
    rest = client.get(path, params={"after": newest["last_id"]}).json()
    assert rest["data"] == whole["data"][-2::-1] and not rest["has_more"]
    for wrong in ({"limit": 0}, {"order": "odd"}, {"after": "nobody"}):
        assert client.get(path, params=wrong).status_code == 400


def test_what_is_gone_is_not_found(serve: Serve) -> None:
    client = serve("One.")
    kept, forgotten = ask(client)["id"], ask(client, store=False)["id"]
    assert client.delete(f"{PATH}/{kept}").json() == {"id": kept, "object": "response", "deleted": True}
    for id in (kept, forgotten):
        assert client.delete(f"{PATH}/{id}").status_code == 404
        for path in (f"{PATH}/{id}", f"{PATH}/{id}/input_items"):
            assert id in client.get(path).json()["error"]["message"]
        error = refused(client, previous_response_id=id)
        assert error["code"] == "previous_response_not_found" and error["param"] == "previous_response_id"


def test_the_store_has_bounds() -> None:
    store = ResponseStore(most_responses=3, most_bytes=400)
    for number in range(4):
        store.put({"id": str(number), "output": []}, [])
    assert [store.get(str(number)) is not None for number in range(4)] == [False, True, True, True]
    store.get("1")
    store.put({"id": "4", "output": []}, [])
    assert store.get("2") is None and store.get("1") is not None, "what was asked for last stays"
    store.put({"id": "5", "output": ["x" * 330]}, [])
    assert store.get("5") is not None and store.bytes <= 400 and len(store) < 3
    store.put({"id": "6", "output": ["x" * 500]}, [])
    assert store.get("6") is None and store.get("5") is not None, "too large for all the room: nobody makes place"


def test_a_response_that_is_put_again_counts_once() -> None:
    store = ResponseStore()
    for _ in range(3):
        store.put({"id": "a"}, [])
    size = store.bytes
    assert len(store) == 1 and store.delete("a") and store.bytes == 0 and size > 0


# --- what can't be done


def test_what_is_left_out_is_named(serve: Serve) -> None:
    body = {
        "input": "Hi",
        "max_tool_calls": 3,
        "text": {"verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "user": "me",
        "service_tier": "auto",
    }
    answer = serve().post(PATH, json=body)
    assert answer.headers["x-ignored-params"].split(", ") == [
        "max_tool_calls",
        "include.reasoning.encrypted_content",
        "text.verbosity",
        "reasoning.effort",
        "reasoning.summary",
    ]
    assert serve(strict=True).post(PATH, json=body).status_code == 400


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "middle"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "poem"}}}, "text.format.type"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "bird", "content": "b"}]}, "input[1].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "x"}]}]}, "file_id"),
    ],
)
def test_what_changes_the_meaning_is_refused(serve: Serve, wrong: dict[str, Any], param: str) -> None:
    client = serve()
    assert refused(client, **wrong)["param"] == param
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


def test_errors_count_a_requests_own_items(serve: Serve) -> None:
    client = serve("One.")
    first = ask(client)["id"]
    error = refused(client, input=[{"type": "odd"}], previous_response_id=first)
    assert error["param"] == "input[0].type"


def test_a_prompt_that_is_too_long_is_refused_or_cut(serve: Serve) -> None:
    client = serve("ok")
    turns = [
        {"role": "user", "content": "word " * 1500},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "So?"},
    ]
    executor = client.llm.executor  # type: ignore[attr-defined]
    executor.capabilities = replace(executor.capabilities, max_context=300)
    assert refused(client, input=turns)["code"] == "context_length_exceeded"
    cut = ask(client, turns, truncation="auto", max_output_tokens=20)
    assert cut["usage"]["truncated_tokens"] > 1000 and cut["truncation"] == "auto"


def test_an_error_in_the_middle_is_a_failed_response(serve: Serve, broken: Callable[..., None]) -> None:
    client = serve("some words")
    broken(client, 5)
    stream = events(client)
    assert stream[-1]["type"] == "response.failed"
    response = stream[-1]["response"]
    assert response["status"] == "failed" and response["error"]["code"] == "server_error"
    assert "secret" not in json.dumps(stream)
    assert client.get(f"{PATH}/{response['id']}").json()["status"] == "failed"
    assert ask(client)["status"] == "completed"
