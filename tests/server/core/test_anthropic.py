"""Anthropic's messages: turns of blocks to what the model reads, and its answer back, whole and as events."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from whimbrel.models.chat import ChatTemplate
from whimbrel.server.anthropic.content import messages_of

Serve = Callable[..., TestClient]
Read = Callable[..., str]

PATH = "/v1/messages"
QUESTION = [{"role": "user", "content": "Hi"}]
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def post(client: TestClient, messages: Any = QUESTION, **body: Any) -> Any:
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "whatever"}
    return client.post(
        PATH, json={"model": "scripted", "max_tokens": 90, "messages": messages, **body}, headers=headers
    )


def ask(client: TestClient, messages: Any = QUESTION, **body: Any) -> dict[str, Any]:
    answer = post(client, messages, **body)
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


def events(client: TestClient, messages: Any = QUESTION, **body: Any) -> list[dict[str, Any]]:
    answer = post(client, messages, stream=True, **body)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for text in answer.text.removesuffix("\n\n").split("\n\n"):
        name, data = text.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def put_together(stream: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of events."""
    first, *rest = stream
    message: dict[str, Any] = first["message"]
    written: dict[int, str] = {}
    for event in rest:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
            case "content_block_delta":
                (text,) = (value for key, value in event["delta"].items() if key != "type")
                written[event["index"]] = written.get(event["index"], "") + text
            case "content_block_stop":
                block, text = message["content"][event["index"]], written.get(event["index"], "")
                if block["type"] == "tool_use":
                    block["input"] = json.loads(text)
                else:
                    block[block["type"]] = text
            case "message_delta":
                message |= {**event["delta"], "usage": event["usage"]}
    return message


# --- answers


def test_a_message_says_what_was_answered(serve: Serve) -> None:
    message = ask(serve("some words"))
    assert message["id"].startswith("msg_") and message["type"] == "message" and message["role"] == "assistant"
    assert message["model"] == "scripted" and message["content"] == [{"type": "text", "text": "some words"}]
    assert message["stop_reason"] == "end_turn" and message["stop_sequence"] is None
    assert message["usage"]["output_tokens"] == len("some words") + 1 and message["usage"]["input_tokens"] > 5


def test_it_fits_the_sdks_type(serve: Serve, thinking: ChatTemplate, call_text: str) -> None:
    from anthropic.types import Message

    client = serve(f"<think>Hm.</think>I look. {call_text}")
    client.llm.chat_template = thinking  # type: ignore[attr-defined]
    message = Message.model_validate(ask(client, tools=[TOOL]))
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]


@pytest.mark.parametrize("limit", [90, 3])
@pytest.mark.parametrize("answer", ["some words", "", "<think>Hm.</think>I look. "])
@pytest.mark.parametrize("calls", [False, True])
def test_events_add_up_to_the_whole_message(
    serve: Serve, thinking: ChatTemplate, call_text: str, answer: str, calls: bool, limit: int
) -> None:
    client = serve(answer + (call_text if calls else ""))
    client.llm.chat_template = thinking  # type: ignore[attr-defined]
    body = {"tools": [TOOL], "max_tokens": limit if limit < 10 else 200}
    whole, stream = ask(client, **body), events(client, **body)
    together = put_together(stream)
    for message in (whole, together):
        message["id"] = ""
        for block in message["content"]:
            block.pop("id", None)
    assert together == whole
    assert stream[1]["type"] == "ping" and stream[-1]["type"] == "message_stop"
    assert [event["index"] for event in stream if "index" in event] == sorted(
        event["index"] for event in stream if "index" in event
    )
    reason = "max_tokens" if limit < 10 and (answer or calls) else "tool_use" if calls else "end_turn"
    assert whole["stop_reason"] == reason


def test_a_stop_sequence_is_named(serve: Serve) -> None:
    message = ask(serve("one two three"), stop_sequences=["x", " two"])
    assert message["stop_reason"] == "stop_sequence" and message["stop_sequence"] == " two"
    assert message["content"] == [{"type": "text", "text": "one"}]


def test_the_context_may_end_an_answer_before_max_tokens_do(serve: Serve) -> None:
    client = serve("word " * 500)
    executor = client.llm.executor  # type: ignore[attr-defined]
    executor.capabilities = replace(executor.capabilities, max_context=300)
    message = ask(client, max_tokens=100_000)
    used = message["usage"]
    assert message["stop_reason"] == "model_context_window_exceeded"
    assert used["input_tokens"] + used["output_tokens"] == 300
    long = post(client, [{"role": "user", "content": "word " * 500}])
    assert long.status_code == 400 and long.json()["error"]["type"] == "invalid_request_error"


def test_arguments_that_were_cut_are_what_is_there(serve: Serve, call_text: str) -> None:
    message = ask(serve(call_text), tools=[TOOL], max_tokens=call_text.index("lo"))
    (block,) = message["content"]
    assert message["stop_reason"] == "max_tokens" and block["input"] == {"city": "Os"}


# --- what is read


def test_turns_of_blocks_become_messages() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Oslo"}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
        {"role": "user", "content": "Three."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "I look."},
                call,
                {**call, "id": "t2"},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "clear"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no"}],
                },
                {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    messages, files = messages_of([{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}], turns)
    assert files == ()
    system, user, assistant, first, second, last = messages
    assert system == {"role": "system", "content": "Be\n\nbrief."}
    assert user == {"role": "user", "content": "One.\n\nTwo.\n\nThree."}
    assert assistant["content"] == "I look." and assistant["reasoning_content"] == "Hm."
    assert [one["id"] for one in assistant["tool_calls"]] == ["t1", "t2"]
    function = assistant["tool_calls"][0]["function"]
    assert function["name"] == "get_weather" and json.loads(function["arguments"]) == {"city": "Oslo"}
    assert first == {"role": "tool", "tool_call_id": "t1", "name": "get_weather", "content": "clear"}
    assert second["content"] == "Error: no" and second["tool_call_id"] == "t2"
    assert last == {"role": "user", "content": "And?"}


def test_documents_come_by_their_id_or_as_text() -> None:
    def document(**source: Any) -> dict[str, Any]:
        return {"type": "document", "title": "Birds", "source": source}

    blocks = [
        document(type="file", file_id="file-1"),
        document(type="text", media_type="text/plain", data="A gull."),
        document(type="content", content=[{"type": "text", "text": "A tern."}]),
        {"type": "text", "text": "Which?"},
    ]
    (message,), files = messages_of(None, [{"role": "user", "content": blocks}])
    assert files == ("file-1",)
    assert message["content"].split() == ["Birds", "A", "gull.", "Birds", "A", "tern.", "Which?"]


def test_thinking_is_switched(serve: Serve, thinking: ChatTemplate, read: Read) -> None:
    client = serve("Yes.")
    client.llm.chat_template = thinking  # type: ignore[attr-defined]
    for config, off in (({"type": "disabled"}, True), ({"type": "adaptive"}, False), (None, False)):
        ask(client, thinking=config)
        assert read(client).endswith("<think></think>") is off


def test_tokens_are_counted_as_they_are_read(serve: Serve) -> None:
    client = serve("ok")
    for more in ({}, {"system": "Be brief."}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": {"type": "none"}}):
        body = {"model": "scripted", "messages": QUESTION, **more}
        counted = client.post(f"{PATH}/count_tokens", json=body).json()
        assert counted == {"input_tokens": ask(client, **more)["usage"]["input_tokens"]}


# --- what can't be done


def test_what_is_left_out_is_named(serve: Serve) -> None:
    cited = {"type": "document", "source": {"type": "text", "data": "x"}, "citations": {"enabled": True}}
    body = {
        "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"},
        "output_config": {"effort": "low"},
        "metadata": {"user_id": "me"},
        "container": "c",
    }
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": [cited, {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}]},
        *QUESTION,
    ]
    answer = post(serve(), turns, **body)
    assert answer.headers["x-ignored-params"].split(", ") == [
        "container",
        "thinking.budget_tokens",
        "thinking.display",
        "output_config.effort",
        "redacted_thinking",
        "citations",
    ]
    assert post(serve(strict=True), turns, **body).status_code == 400


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "I"}]}, "last message"),
        ({"messages": [{"role": "bird", "content": "a"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b"}]}]}, "tool_use"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
            "/v1/files",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]}, "tool_use_id"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "bash_20250124"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "odd"}}, "odd"),
        ({"thinking": {"type": "odd"}}, "odd"),
        ({"output_config": {"format": {"type": "poem"}}}, "output_config.format"),
        ({"temperature": -1}, "temperature"),
    ],
)
def test_what_is_wrong_is_refused_in_its_shape(serve: Serve, wrong: dict[str, Any], named: str) -> None:
    client = serve()
    answer = post(client, **wrong)
    body = answer.json()
    assert answer.status_code == 400 and body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error" and named in body["error"]["message"]
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


def test_statuses_have_anthropics_names(serve: Serve) -> None:
    assert post(serve(), model="nobody").json()["error"]["type"] == "not_found_error"
    locked = post(serve(api_keys=("right",)))
    assert locked.status_code == 401 and locked.json()["error"]["type"] == "authentication_error"
    large = post(serve(max_body=100), system="x" * 200)
    assert large.status_code == 413 and large.json()["error"]["type"] == "request_too_large"


def test_an_error_in_the_middle_is_an_event(serve: Serve, broken: Callable[..., None]) -> None:
    client = serve("some words")
    broken(client, 5)
    stream = events(client)
    assert stream[-1]["type"] == "error" and stream[-1]["error"]["type"] == "api_error"
    assert "secret" not in json.dumps(stream)
    assert ask(client)["stop_reason"] == "end_turn"
