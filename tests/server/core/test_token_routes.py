"""What evaluations ask about tokens."""

from collections.abc import Callable

from starlette.testclient import TestClient

from whimbrel.testing import tiny

Serve = Callable[..., TestClient]


def test_tokenizer_info(serve: Serve) -> None:
    client = serve()
    tokenizer = client.llm.tokenizer  # type: ignore[attr-defined]
    info = client.get("/tokenizer_info").json()
    bos, eos = tokenizer.token_name(tokenizer.bos_token_id), tokenizer.token_name(tokenizer.eos_token_ids[0])
    assert info == {"bos_token": bos, "eos_token": eos, "pad_token": None, "chat_template": tiny.CHAT_TEMPLATE}
    assert client.get("/tokenizer_info", params={"model": "nobody"}).status_code == 404


def test_add_special_tokens_is_another_name_of_add_special(serve: Serve) -> None:
    client = serve()
    llm = client.llm  # type: ignore[attr-defined]
    for special in (True, False):
        answer = client.post("/tokenize", json={"prompt": "Hi", "add_special_tokens": special})
        assert "x-ignored-params" not in answer.headers
        ids = answer.json()["tokens"]
        assert ids == llm.tokenize("Hi", add_special=special)
    assert client.post("/detokenize", json={"tokens": ids}).json()["prompt"] == llm.detokenize(ids)


def test_stops_have_limits_in_every_dialect(serve: Serve) -> None:
    client, messages = serve(), [{"role": "user", "content": "Hi"}]
    asked = {"model": "scripted", "messages": messages}
    anthropic = client.post("/v1/messages", json={**asked, "max_tokens": 4, "stop_sequences": ["a"] * 65})
    ollama = client.post("/api/chat", json={**asked, "options": {"stop": ["a" * 1001]}})
    assert anthropic.status_code == ollama.status_code == 400
    assert "stop_sequences" in anthropic.json()["error"]["message"]
    assert "options.stop" in ollama.json()["error"]
