"""What the server counts and writes down of requests, and what it never does."""

import json
import logging
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from whimbrel.server.logs import JsonFormatter, TextFormatter

Serve = Callable[..., TestClient]

SECRET = "plover4711"


def counters(client: TestClient) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_counts_are_exact(serve: Serve) -> None:
    client = serve("abc")
    for _ in range(3):
        usage = client.post("/v1/completions", json={"prompt": "Hi"}).json()["usage"]
    client.post("/v1/completions", json={"prompt": 1})
    client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 2, "stream": True})
    found = counters(client)
    assert found['whimbrel_requests_total{path="/v1/completions",status="200"}'] == 4
    assert found['whimbrel_requests_total{path="/v1/completions",status="400"}'] == 1
    assert found['whimbrel_answers_total{model="scripted",reason="stop"}'] == 3
    assert found['whimbrel_answers_total{model="scripted",reason="length"}'] == 1
    assert found['whimbrel_completion_tokens_total{model="scripted"}'] == 3 * usage["completion_tokens"] + 2
    assert found['whimbrel_prompt_tokens_total{model="scripted"}'] == 4 * usage["prompt_tokens"]
    assert found["whimbrel_open_answers"] == 0


def test_labels_dont_grow_with_what_clients_send(serve: Serve) -> None:
    client = serve()
    for number in range(30):
        client.get(f"/nothing/{number}")
        client.get(f"/v1/models/model{number}")
        client.get(f"/v1/files/file-{number}")
        client.get(f"/page/{number}.js")
        client.post("/v1/completions", json={"prompt": "Hi", "model": f"model{number}"})
        client.request(f"METHOD{number}", "/health")
    names = [name for name in counters(client) if name.startswith("whimbrel_requests_total")]
    assert len(names) <= 8
    assert not [name for name in counters(client) if "model1" in name]


def test_logs_hold_no_secrets(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = serve(SECRET, api_keys=(f"key-{SECRET}",))
    headers = {"Authorization": f"Bearer key-{SECRET}"}
    with caplog.at_level(logging.DEBUG, "whimbrel"):
        for path in ("/v1/completions", "/api/generate"):
            assert client.post(path, json={"model": "scripted", "prompt": SECRET}, headers=headers).status_code == 200
        client.post("/v1/completions", json={"prompt": SECRET, "stream": True}, headers=headers)
        client.post("/v1/completions", json={"prompt": {SECRET: SECRET}}, headers=headers)
        client.get(f"/v1/models?key={SECRET}", headers=headers)
        client.get(f"/{SECRET}", headers=headers)
        client.get("/health", headers={"x-api-key": SECRET})
        client.post("/login", data={"key": SECRET})
    requests = [record for record in caplog.records if record.name == "whimbrel.server.access"]
    assert len(requests) == 8
    for record in caplog.records:
        if record.name.startswith("whimbrel"):
            for formatter in (JsonFormatter(), TextFormatter("%(message)s")):
                assert SECRET not in formatter.format(record)


def test_json_lines_can_be_read(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = serve()
    with caplog.at_level(logging.INFO, "whimbrel.server"):
        client.post("/v1/completions", json={"prompt": "Hi"}, headers={"X-Request-Id": "mine"})
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name == "whimbrel.server.access"]
    (line,) = [json.loads(line) for line in lines]
    assert {"request": "mine", "method": "POST", "path": "/v1/completions", "status": 200}.items() <= line.items()
    assert line["model"] == "scripted"
    assert "\n" not in lines[0]


def test_every_answer_has_a_request_id(serve: Serve) -> None:
    client = serve()
    assert client.get("/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = {client.get(path).headers["x-request-id"] for path in ("/health", "/nothing", "/v1/models")}
    assert len(made) == 3
    for bad in ("a b", "x" * 200, ""):
        assert client.get("/health", headers={"X-Request-Id": bad}).headers["x-request-id"].startswith("req-")


def test_health_tells_why_a_model_is_not_there(serve: Serve) -> None:
    def broken(name: str) -> object:
        raise ValueError("broken file")

    client = serve(load=broken)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "error")
    assert serve().get("/health").json() == {"status": "ok"}
    client = serve()
    client.app.state.service.stopping = True  # type: ignore[attr-defined]
    assert client.get("/health").json()["status"] == "stopping"
    refused = client.post("/v1/completions", json={"prompt": "Hi"})
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
