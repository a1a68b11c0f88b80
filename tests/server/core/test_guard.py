"""Guard: who may ask, and how much they may send."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from whimbrel.errors import InvalidParameter
from whimbrel.server.settings import ServerSettings

Serve = Callable[..., TestClient]

KEY = "sesame"
ASKED = {"messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]", "LOCALHOST:80"]
)
def test_this_machines_names_are_taken(serve: Serve, host: str) -> None:
    assert serve().get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil.example:8080", "127.0.0.1.nip.example", "", "[::2]:80", "["],
)
def test_another_name_is_refused(serve: Serve, host: str) -> None:
    answer = serve().get("/health", headers={"Host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "unknown_host"


def test_a_name_can_be_allowed(serve: Serve) -> None:
    client = serve(allowed_hosts=("desk.lan",))
    assert client.get("/health", headers={"Host": "desk.lan:8080"}).status_code == 200
    assert client.get("/health", headers={"Host": "other.lan"}).status_code == 403


def test_an_open_server_may_have_any_name(serve: Serve) -> None:
    client = serve(host="0.0.0.0", api_keys=(KEY,))
    assert client.get("/health", headers={"Host": "any.example", "x-api-key": KEY}).status_code == 200


def test_the_own_page_may_ask(serve: Serve) -> None:
    client = serve()
    headers = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}
    assert client.post(CHAT, json=ASKED, headers=headers).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9999", "http://["])
def test_a_page_of_another_site_may_not_ask(serve: Serve, origin: str) -> None:
    client = serve()
    answer = client.post(CHAT, json=ASKED, headers={"Origin": origin})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "unknown_origin"
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


def test_a_page_of_another_site_reads_nothing(serve: Serve) -> None:
    answer = serve().get("/v1/models", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def test_a_preflight_of_another_site_is_refused(serve: Serve) -> None:
    answer = serve().options(CHAT, headers={"Origin": "https://evil.example", **PREFLIGHT})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_a_link_of_another_site_opens_the_page_and_nothing_else(serve: Serve) -> None:
    client = serve()
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    for path in ("/tokenizer_info?model=scripted", "/v1/models"):
        assert client.get(path, headers=link).status_code == 403
        assert client.get(path, headers={**link, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert client.get("/v1/models", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_head_is_get_without_a_body(serve: Serve) -> None:
    client = serve()
    for path in ("/", "/health", "/v1/models", "/metrics"):
        asked = client.head(path)
        assert (asked.status_code, asked.headers["content-type"]) == (200, client.get(path).headers["content-type"])
    assert client.head(CHAT).status_code == 405
    assert client.options(CHAT).status_code == 405
    assert serve(api_keys=(KEY,)).head("/health").status_code == 401


def test_an_allowed_site_may_ask(serve: Serve) -> None:
    """With a key too: a preflight never carries one, and a refusal must be readable for the page."""
    site = "https://app.example"
    client = serve(cors_origins=(site,), api_keys=(KEY,))
    preflight = client.options(CHAT, headers={"Origin": site, **PREFLIGHT})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == site
    asked = client.post(CHAT, json=ASKED, headers={"Origin": site, "Authorization": f"Bearer {KEY}"})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == site
    refused = client.post(CHAT, json=ASKED, headers={"Origin": site})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == site
    other = client.options(CHAT, headers={"Origin": "https://evil.example", **PREFLIGHT})
    assert other.status_code in {400, 403}
    assert "access-control-allow-origin" not in other.headers


def _paths(app: FastAPI) -> list[tuple[str, str]]:
    documented = [(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item]
    return [*documented, ("GET", "/"), ("GET", "/page/x.js"), ("GET", "/openapi.json"), ("GET", "/no"), ("PUT", "/")]


def test_every_path_wants_the_key(serve: Serve) -> None:
    client = serve(api_keys=(KEY, "second"))
    paths = _paths(client.app)  # type: ignore[arg-type]
    assert len(paths) >= 20
    for method, path in paths:
        for headers in (
            {},
            {"x-api-key": "wrong"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {KEY}"},
        ):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {KEY}"}, {"x-api-key": KEY}, {"x-api-key": "b"}],
)
def test_a_key_opens(serve: Serve, headers: dict[str, str]) -> None:
    assert serve(api_keys=(KEY, "b")).get("/v1/models", headers=headers).status_code == 200


def test_the_cookie_of_the_login_form_opens(serve: Serve) -> None:
    client = serve(api_keys=(KEY,))
    asked = client.get("/", headers={"Accept": "text/html"})
    assert asked.status_code == 401
    assert "<form" in asked.text
    assert "default-src 'none'" in asked.headers["content-security-policy"]
    assert client.post("/login", data={"key": "wrong"}).status_code == 401
    assert client.get("/v1/models").status_code == 401
    entered = client.post("/login", data={"key": KEY})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert KEY not in cookie
    assert client.get("/v1/models").status_code == 200


def test_a_logout_closes(serve: Serve) -> None:
    client = serve(api_keys=(KEY,))
    client.post("/login", data={"key": KEY})
    assert client.get("/v1/models").status_code == 200
    assert client.post("/logout", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.get("/v1/models").status_code == 200
    left = client.post("/logout")
    assert (left.status_code, left.headers["location"]) == (303, "/")
    assert client.get("/v1/models").status_code == 401


def test_a_cookie_of_another_key_does_not_open(serve: Serve) -> None:
    client = serve(api_keys=("another",))
    client.post("/login", data={"key": "another"})
    cookie = client.cookies["whimbrel_key"]
    answer = serve(api_keys=(KEY,)).get("/v1/models", headers={"Cookie": f"whimbrel_key={cookie}"})
    assert answer.status_code == 401
    for odd in ("whimbrel_key=", "whimbrel_key", "whimbrel_key=\xe9", ";;;=", 'whimbrel_key="'):
        assert serve(api_keys=(KEY,)).get("/v1/models", headers={"Cookie": odd.encode("latin-1")}).status_code == 401


def test_a_key_may_be_any_printable_text(serve: Serve) -> None:
    key = "!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~"
    client = serve(api_keys=(key,))
    for headers in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}):
        assert client.get("/v1/models", headers=headers).status_code == 200
    assert client.post("/login", data={"key": key}).status_code == 303
    assert client.get("/v1/models").status_code == 200


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "\u00e9", "a\x00"])
def test_what_no_client_could_send_is_no_key(key: str) -> None:
    with pytest.raises(InvalidParameter):
        ServerSettings(models=("a",), host="0.0.0.0", api_keys=("good", key))


def test_a_login_from_another_site_is_refused(serve: Serve) -> None:
    answer = serve(api_keys=(KEY,)).post("/login", data={"key": KEY}, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_each_dialect_has_its_own_refusal(serve: Serve) -> None:
    client = serve(api_keys=(KEY,))
    openai = client.post(CHAT, json=ASKED).json()
    assert openai["error"]["code"] == "invalid_api_key"
    anthropic = client.post("/v1/messages", json=ASKED).json()
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "authentication_error")
    assert isinstance(client.post("/api/chat", json=ASKED).json()["error"], str)


def test_a_body_that_is_too_large_is_refused(serve: Serve) -> None:
    client = serve(max_body=1000)
    big = b'{"prompt": "' + b"a" * 2000 + b'"}'
    headers = {"Content-Type": "application/json"}
    announced = client.post("/v1/completions", content=big, headers=headers)
    assert (announced.status_code, announced.json()["error"]["code"]) == (413, "too_large")
    chunked = client.post("/v1/completions", content=iter([big[:900], big[900:]]), headers=headers)
    assert (chunked.status_code, chunked.json()["error"]["code"]) == (413, "too_large")
    assert client.post("/v1/completions", json={"prompt": "a" * 500}).status_code == 200


def test_a_body_that_stops_coming_is_given_up(serve: Serve) -> None:
    client = serve(body_seconds=0.05)
    sent: list[Any] = []

    async def ask() -> None:
        first = [{"type": "http.request", "body": b'{"prompt"', "more_body": True}]

        async def receive() -> Any:
            if first:
                return first.pop()
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
        await client.app({**scope, "scheme": "http", "query_string": b"", "root_path": ""}, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 408


BODY = (
    b'{"model": "scripted", "prompt": "Hi", "input": "Hi", "max_tokens": 4, '
    b'"messages": [{"role": "user", "content": "Hi"}]}'
)
OWN = [CHAT, "/v1/completions", "/v1/messages", "/v1/responses"]
OLLAMAS = ["/api/chat", "/api/generate"]
SIMPLE = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
"""What a browser sends to another site without asking first."""


@pytest.mark.parametrize("kind", [*SIMPLE, ""])
@pytest.mark.parametrize("path", OWN)
def test_a_body_that_is_not_called_json_starts_nothing(serve: Serve, path: str, kind: str) -> None:
    client = serve()
    answer = client.post(path, content=BODY, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code in {400, 415}
    assert "error" in answer.json()
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "site", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
@pytest.mark.parametrize("kind", SIMPLE)
@pytest.mark.parametrize("path", [*OWN, *OLLAMAS])
def test_a_form_of_another_site_starts_nothing(serve: Serve, path: str, kind: str, site: dict[str, str]) -> None:
    client = serve()
    assert client.post(path, content=BODY, headers={"Content-Type": kind, **site}).status_code == 403
    assert not client.llm.executor.requests  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", OLLAMAS)
def test_curl_may_call_it_a_form(serve: Serve, path: str) -> None:
    """As Ollama's own examples do; no browser is behind it, since that would have named its page."""
    assert serve().post(path, content=BODY, headers={"Content-Type": SIMPLE[1]}).status_code == 200
