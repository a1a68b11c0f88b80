"""Requests that are wrong: told so in the dialect's own shape, never with a 500."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

Serve = Callable[..., TestClient]

JSON = {"Content-Type": "application/json"}
CHAT = "/v1/chat/completions"
POSTS = {
    CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/v1/messages": {"model": "scripted", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/messages/count_tokens": {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/embeddings": {"input": "Hi"},
    "/tokenize": {"content": "Hi"},
    "/detokenize": {"tokens": [5]},
    "/apply-template": {"messages": [{"role": "user", "content": "Hi"}]},
    "/api/chat": {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]},
    "/api/generate": {"model": "scripted", "prompt": "Hi"},
    "/api/embed": {"model": "scripted", "input": "Hi"},
    "/api/show": {"model": "scripted"},
}
path_of_every_post = pytest.mark.parametrize("path", POSTS)


def told(answer: Any, path: str, *statuses: int) -> str:
    """The message of an error that has its dialect's shape."""
    assert answer.status_code in (statuses or (400,)), answer.text
    error = answer.json()["error"]
    if path.startswith("/api/"):
        message = error
    elif path.startswith("/v1/messages"):
        assert answer.json()["type"] == "error"
        message = error["message"]
    else:
        assert set(error) == {"message", "type", "param", "code"}
        message = error["message"]
    assert isinstance(message, str) and message
    return message


def test_every_post_is_tried(serve: Serve) -> None:
    paths = serve().app.openapi()["paths"]  # type: ignore[attr-defined]
    forms = {"/v1/files"}
    posts = {path for path, item in paths.items() if "post" in item and "{" not in path}
    assert posts - forms <= {*POSTS, "/api/embeddings", "/api/pull", "/api/create", "/api/copy", "/api/push"}


NO_OBJECT = [
    b"",
    b"{",
    b'{"model": }',
    b"[]",
    b"[1]",
    b'"text"',
    b"null",
    b"1",
    b"\xff\xfe",
    b'{"model": "\xff"}',
    b"[" * 10_000 + b"]" * 10_000,
    b'{"model": ' * 10_000 + b"1" + b"}" * 10_000,
    b"[" * 100_000,
]


@path_of_every_post
@pytest.mark.parametrize("body", NO_OBJECT, ids=range(len(NO_OBJECT)))
def test_what_is_no_object_is_refused(serve: Serve, path: str, body: bytes) -> None:
    client = serve()
    told(client.post(path, content=body, headers=JSON), path)
    assert client.get("/health").status_code == 200


ODD = [
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "-1",
    "1.5",
    "true",
    '"x"',
    "[]",
    "{}",
    "[[[]]]",
]
ODD += [r'"\ud800"', r'["\ud800"]', r'{"\ud800": "\udfff"}', r'"\u0000"', r'[{"\u0000": "\u0000"}]']
FIELDS = [
    "model",
    "messages",
    "prompt",
    "input",
    "tokens",
    "content",
    "stop",
    "tools",
    "n",
    "max_tokens",
    "temperature",
]
FIELDS += ["seed", "top_k", "logit_bias", "logprobs", "stream", "response_format", "format", "options", "keep_alive"]
FIELDS += [
    "system",
    "metadata",
    "user",
    "unknown",
    "tool_choice",
    "stream_options",
    "chat_template_kwargs",
    "instructions",
]


@path_of_every_post
def test_odd_values_are_never_a_fault_of_the_server(serve: Serve, path: str) -> None:
    client = serve("ab")
    for field in FIELDS:
        for odd in ODD:
            known = {name: value for name, value in POSTS[path].items() if name != field}
            body = json.dumps(known)[:-1] + (", " if known else "") + f'"{field}": {odd}}}'
            answer = client.post(path, content=body.encode(), headers=JSON)
            assert answer.status_code < 500 or answer.status_code == 501, (field, odd[:20], answer.text[:300])
    assert client.llm.executor.open_streams == 0  # type: ignore[attr-defined]


SURROGATES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "a\ud800"}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udfff"}]}]}),
    (CHAT, {**POSTS[CHAT], "stop": "\ud800"}),
    (CHAT, {**POSTS[CHAT], "stop": ["x", "\ud800"]}),
    (CHAT, {**POSTS[CHAT], "model": "\ud800"}),
    (CHAT, {**POSTS[CHAT], "tools": [{"type": "function", "function": {"name": "f", "description": "\ud800"}}]}),
    (CHAT, {**POSTS[CHAT], "stream": True, "stop": ["\ud800"]}),
    ("/v1/completions", {"prompt": "\ud800"}),
    ("/v1/completions", {"prompt": ["a", "\ud800"]}),
    ("/tokenize", {"content": "\ud800"}),
    ("/v1/responses", {"input": "\ud800"}),
    ("/api/generate", {"model": "scripted", "prompt": "\ud800"}),
    ("/v1/messages", {**POSTS["/v1/messages"], "system": "\ud800"}),
]


@pytest.mark.parametrize(("path", "body"), SURROGATES, ids=range(len(SURROGATES)))
def test_half_a_character_is_refused(serve: Serve, path: str, body: dict[str, Any]) -> None:
    client = serve()
    told(client.post(path, content=json.dumps(body).encode(), headers=JSON), path, 400, 404)
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


@pytest.mark.parametrize("stop", [["a"] * 65, "a" * 1001, ["b", "a" * 1001]])
def test_stops_have_limits(serve: Serve, stop: Any) -> None:
    answer = serve().post(CHAT, json={**POSTS[CHAT], "stop": stop})
    assert "stop" in told(answer, CHAT)
    assert answer.json()["error"]["param"] == "stop"


@pytest.mark.parametrize("n", [0, -1, 129, 10**9])
def test_n_has_limits(serve: Serve, n: int) -> None:
    for path in (CHAT, "/v1/completions"):
        assert "n=" in told(serve().post(path, json={**POSTS[path], "n": n}), path)


def test_prompts_have_limits(serve: Serve) -> None:
    client = serve()
    for prompts in ([], ["a"] * 2049):
        told(client.post("/v1/completions", json={"prompt": prompts}), "/v1/completions")
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


def test_an_unknown_field_is_named(serve: Serve) -> None:
    body = {**POSTS[CHAT], "colour": 1, "shape_of_it": 2, "nothing": None}
    answer = serve().post(CHAT, json=body)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-params"] == "colour, shape_of_it"


def test_a_known_request_ignores_nothing(serve: Serve) -> None:
    assert "x-ignored-params" not in serve().post(CHAT, json=POSTS[CHAT]).headers


def test_strict_refuses_an_unknown_field(serve: Serve) -> None:
    body = {**POSTS[CHAT], "colour": 1}
    answers = [
        serve(strict=True).post(CHAT, json=body),
        serve().post(CHAT, json=body, headers={"X-Whimbrel-Strict": "true"}),
    ]
    for answer in answers:
        assert "colour" in told(answer, CHAT)
        assert answer.json()["error"]["param"] == "colour"


@pytest.mark.parametrize("name", ["a\r\nX-Evil: 1", "a\nb", "\u0000", "é\u2028", "x" * 100_000, "\ud800"])
def test_names_of_fields_write_no_headers(serve: Serve, name: str) -> None:
    body = json.dumps({**POSTS[CHAT], name: 1}).encode()
    answer = serve().post(CHAT, content=body, headers=JSON)
    assert answer.status_code < 500
    assert "x-evil" not in answer.headers
    assert len(answer.headers.get("x-ignored-params", "")) <= 1024


@pytest.mark.parametrize("path", [path for path, body in POSTS.items() if path not in {"/v1/embeddings", "/api/embed"}])
def test_an_unknown_model_is_not_found(serve: Serve, path: str) -> None:
    answer = serve().post(path, json={**POSTS[path], "model": "nobody"})
    assert "nobody" in told(answer, path, 404)


@path_of_every_post
def test_a_wrong_method_has_the_dialects_shape(serve: Serve, path: str) -> None:
    told(serve().put(path, json={}), path, 405)


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1/messages/nothing", "/api/nothing", "/nothing", "/v1/files/no", "/page/no.js"]
)
def test_an_unknown_path_has_the_dialects_shape(serve: Serve, path: str) -> None:
    told(serve().get(path), path, 404)


@pytest.mark.parametrize(
    "path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "/page/README.md", "/page/%00"]
)
def test_the_page_serves_its_own_files_only(serve: Serve, path: str) -> None:
    assert serve().get(path).status_code == 404
