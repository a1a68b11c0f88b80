"""What errors say about a request: which field is wrong, in every route's own words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from whimbrel.backends.llm import LLM
from whimbrel.ops import dispatch

Serve = Callable[..., TestClient]

MESSAGES = [{"role": "user", "content": "Hi"}]
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
ASKED = {CHAT: {"messages": MESSAGES}, COMPLETIONS: {"prompt": "Hi"}, RESPONSES: {"input": "Hi"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NOT = {"type": "object", "not": {}}

native = pytest.mark.skipif(
    dispatch.get("attend").why_not("native") is not None, reason="only the native engine holds answers to a shape"
)


def parameter(client: TestClient, path: str, **body: Any) -> str | None:
    answer = client.post(path, json={**ASKED[path], **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error["param"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_p", 2),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("seed", 2**70),
        ("n", 0),
        ("overflow", "somehow"),
        ("stop", ["a"] * 65),
        ("logit_bias", {"x": 1}),
        ("stream", "yes"),
        ("model", 5),
    ],
    ids=str,
)
def test_the_wrong_field_is_named(serve: Serve, path: str, field: str, value: Any) -> None:
    assert parameter(serve(), path, **{field: value}) == field


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"tools": [{"type": "web"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [TOOL], "tool_choice": "g"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"passages": 2}, "passages"),
        ({"messages": []}, "messages"),
        ({"messages": [*MESSAGES, {"role": "king", "content": ""}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ],
    ids=str,
)
def test_fields_of_conversations(serve: Serve, body: dict[str, Any], named: str) -> None:
    assert parameter(serve(), CHAT, **body) == named


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], [1, "a"], {"a": 1}, None, [[1], "a"], [1.5]], ids=str)
def test_prompts_that_are_none(serve: Serve, prompt: Any) -> None:
    client = serve()
    assert parameter(client, COMPLETIONS, prompt=prompt) in {"prompt", *(f"prompt.{kind}" for kind in ("str",)), None}
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"type": "nothing"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "regex"},
        {"type": "regex", "pattern": ""},
        {"type": "lark", "grammar": ""},
        {"type": "choice", "choices": []},
    ],
    ids=str,
)
def test_a_shape_that_is_none(serve: Serve, shape: dict[str, Any]) -> None:
    for path in (CHAT, COMPLETIONS):
        named = parameter(serve(), path, response_format=shape)
        assert named is not None and named.startswith("response_format")


@native
@pytest.mark.parametrize(
    "shape",
    [
        {"type": "json_schema", "json_schema": {"name": "x", "schema": NOT}},
        {"type": "regex", "pattern": "("},
        {"type": "lark", "grammar": "start: ("},
    ],
    ids=lambda shape: str(shape["type"]),
)
def test_a_shape_that_cannot_be_held(serve: Serve, checkpoint: Path, shape: dict[str, Any]) -> None:
    client = serve(load=lambda _: LLM(str(checkpoint), context=512))
    assert parameter(client, CHAT, response_format=shape) == "response_format"
    assert parameter(client, COMPLETIONS, response_format=shape) == "response_format"


@native
def test_schemas_that_cannot_be_held_elsewhere(serve: Serve, checkpoint: Path) -> None:
    client = serve(load=lambda _: LLM(str(checkpoint), context=512))
    format = {"type": "json_schema", "name": "x", "schema": NOT}
    assert parameter(client, RESPONSES, text={"format": format}) == "text.format"
    strict = {"type": "function", "function": {"name": "f", "strict": True, "parameters": NOT}}
    assert parameter(client, CHAT, tools=[strict], tool_choice="required") == "tools"


@pytest.mark.parametrize(
    "name", ["messages", "self", "tools", "documents", "range", "raise_exception", "bos_token", "loop", "a b", "\u0000"]
)
def test_variables_of_templates_break_nothing(serve: Serve, name: str) -> None:
    for value in (1, "x", [1], {"a": 1}, None, True):
        body = {"messages": MESSAGES, "chat_template_kwargs": {name: value}}
        for path in (CHAT, "/apply-template"):
            assert serve().post(path, json=body).status_code in {200, 400}, (path, value)


def test_more_answers_than_the_server_ever_takes_on(serve: Serve) -> None:
    """429 would invite to try again, which could never help."""
    client = serve(max_queue=0)
    most = client.llm.capabilities.max_sequences  # type: ignore[attr-defined]
    body = {"prompt": ["a"] * (most // 4 + 1), "n": 4, "max_tokens": 1}
    answer = client.post(COMPLETIONS, json=body)
    assert answer.status_code == 400
    assert f"room for {most}" in answer.json()["error"]["message"]
    assert client.llm.executor.open_streams == 0  # type: ignore[attr-defined]
    assert client.post(COMPLETIONS, json={**body, "prompt": ["a"] * 3}).status_code == 200


def test_a_wrong_method_says_which_are_right(serve: Serve) -> None:
    answer = serve().get(CHAT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
