"""The OpenAPI document says what really comes."""

from collections.abc import Callable

from starlette.testclient import TestClient

Serve = Callable[..., TestClient]

METHODS = {"get", "post", "put", "delete", "patch"}


def test_422_is_never_sent_nor_documented(serve: Serve) -> None:
    paths = serve().get("/openapi.json").json()["paths"]
    said = [(path, name) for path, item in paths.items() for name in METHODS & set(item)]
    assert len(said) >= 20
    for path, name in said:
        answers = paths[path][name]["responses"]
        assert "422" not in answers, (path, name)
        assert "400" in answers, (path, name)


def test_routes_that_stream_say_both_kinds(serve: Serve) -> None:
    paths = serve().get("/openapi.json").json()["paths"]
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        assert set(paths[path]["post"]["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
