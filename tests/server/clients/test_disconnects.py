"""Clients that go away: whatever they had asked for stops, and its place is free."""

import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from running_server import MAX_QUEUE, MAX_SEQUENCES, Server


def begun(server: Server, path: str, body: dict[str, Any]) -> http.client.HTTPConnection:
    """A request whose answer nobody has read yet."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps({"model": server.model, **body}), headers)
    return connection


def endless(server: Server, **more: Any) -> http.client.HTTPConnection:
    """An answer of as many tokens as the context has."""
    messages = [{"role": "user", "content": "Count as far as you can."}]
    return begun(server, "/v1/chat/completions", {"messages": messages, "max_tokens": 3500, "ignore_eos": True, **more})


def wait_running(server: Server, seconds: float = 20) -> None:
    """Return when somebody's answer is worked on."""
    end = time.monotonic() + seconds
    while not server.metric("whimbrel_running"):
        assert time.monotonic() < end, "nothing runs"


@pytest.mark.parametrize("n", [1, 3])
def test_in_the_middle_of_a_stream(server: Server, n: int) -> None:
    connection = endless(server, stream=True, n=n)
    answer = connection.getresponse()
    assert answer.readline().startswith(b"data: ")
    assert server.metric("whimbrel_open_answers") >= n
    answer.close()
    connection.close()
    server.wait_idle()


def test_while_a_whole_answer_is_written(server: Server) -> None:
    connection = endless(server)
    wait_running(server)
    connection.close()
    server.wait_idle()


def test_while_a_long_prompt_is_read(server: Server) -> None:
    text = " ".join(str(number) for number in range(700))
    connection = begun(server, "/v1/completions", {"prompt": text, "max_tokens": 500, "stream": True})
    wait_running(server)
    connection.close()
    server.wait_idle()


def test_too_many_wait_no_longer_than_it_takes_to_say_so(server: Server) -> None:
    server.wait_idle()
    waiting = [endless(server, stream=True, max_tokens=400 + number) for number in range(MAX_SEQUENCES + MAX_QUEUE)]
    answers = [connection.getresponse() for connection in waiting]
    assert [answer.status for answer in answers] == [200] * len(answers)
    refused = endless(server, max_tokens=4).getresponse()
    body = json.loads(refused.read())
    assert (refused.status, body["error"]["code"]) == (429, "queue_full") and int(refused.headers["Retry-After"]) >= 1
    several = endless(server, max_tokens=4, n=2).getresponse()
    assert several.status == 429 and several.read()
    for answer, connection in zip(answers, waiting, strict=True):
        answer.close()
        connection.close()
    server.wait_idle()
    assert endless(server, max_tokens=4).getresponse().status == 200
