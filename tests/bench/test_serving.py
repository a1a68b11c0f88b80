"""The measuring clients and the soak: what they read, and that they notice when a server does wrong."""

import asyncio
import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from whimbrel.bench import server as bench
from whimbrel.bench import soak
from whimbrel.bench.serving import mischief
from whimbrel.bench.serving.crowd import Ask, Crowd, Load
from whimbrel.bench.serving.http import Target, exchange, parse_reply
from whimbrel.bench.serving.mischief import Violation, World

Answer = Callable[[Any], tuple[int, str, bytes]]
"""a request's JSON -> status, content type, body"""


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """A server of the test's own on a free port, which says what the test wants."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, kind, content = answer(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made.server_port
        made.shutdown()


def stream(*texts: str, usage: bool = True) -> bytes:
    """The bytes of a chat stream."""

    def choice(delta: dict[str, str], end: str | None = None) -> dict[str, Any]:
        return {"choices": [{"delta": delta, "finish_reason": end}]}

    events = [choice({"role": "assistant", "content": ""}), *(choice({"content": text}) for text in texts)]
    events.append(choice({}, "stop"))
    if usage:
        events.append({"choices": [], "usage": {"completion_tokens": 7}})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


@pytest.mark.parametrize(("usage", "tokens"), [(True, 7), (False, 2)])
def test_a_crowd_reads_streams_and_counts_tokens(usage: bool, tokens: int) -> None:
    asks = [Ask(path="/v1/chat/completions", body={"n": number, "max_tokens": 9}) for number in range(2)]
    with (
        serving(lambda body: (200, "text/event-stream", stream(f"hello {body['n']}", "!", usage=usage))) as port,
        Crowd() as crowd,
    ):
        answers = crowd.run(Load(host="127.0.0.1", port=port, clients=[asks, asks]))
    assert sorted((answer.client, answer.text) for answer in answers) == [
        (client, f"hello {number}!") for client in range(2) for number in range(2)
    ]
    for answer in answers:
        assert answer.status == 200 and answer.tokens == tokens and answer.finish == "stop"
        assert answer.first is not None and answer.start <= answer.first <= answer.end


def test_a_refusal_is_no_answer_in_a_turn() -> None:
    replies = iter([(200, "text/event-stream", stream("a")), (429, "application/json", b'{"error": {}}')])
    asks = [Ask(path="/v1/chat/completions", body={"max_tokens": 3})] * 2
    with serving(lambda body: next(replies)) as port, Crowd() as crowd:
        turn = bench.Turn.of(crowd.run(Load(host="127.0.0.1", port=port, clients=[asks])), 0.0)
    assert turn.tokens == 7 and turn.failed == 1 and len(turn.first) == 1


def test_chunks_are_joined_and_a_cut_answer_is_not_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = parse_reply(head + b'8\r\ndata: {"\r\n4\r\na":1\r\n3\r\n}\n\n\r\n0\r\n\r\n')
    assert whole.whole and whole.body == b'data: {"a":1}\n\n' and whole.events == [{"a": 1}]
    assert not parse_reply(head + b"5\r\nhello\r\n").whole
    assert not parse_reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").whole
    with pytest.raises(ConnectionError):
        parse_reply(b"")


def chat(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@pytest.mark.parametrize(
    ("act", "reply", "ending"),
    [
        (mischief.plain, (200, chat("well")), "answered"),
        (mischief.plain, (429, b'{"error": {}}'), "refused 429"),
        (mischief.plain, (500, b'{"error": {}}'), None),
        (mischief.plain, (200, b"{"), None),
        (mischief.plain, (429, b"busy"), None),
        (mischief.constrained, (200, chat('{"name": "gull", "legs": 2, "can_fly": true}')), "answered"),
        (mischief.constrained, (200, chat('{"name": "gull", "legs": 22, "can_fly": true}')), None),
        (mischief.streamed, (200, stream("a")), "answered"),
        (mischief.streamed, (200, stream("a").removesuffix(b"data: [DONE]\n\n")), None),
        (mischief.wrong_types, (400, b'{"error": {"message": "no"}}'), "refused 400"),
        (mischief.wrong_types, (200, chat("what?")), None),
        (mischief.wrong_types, (422, b'{"detail": []}'), None),
        (mischief.greedy, (200, chat("the idle answer")), "answered"),
        (mischief.greedy, (200, chat("another answer")), None),
    ],
)
def test_acts_know_right_from_wrong(act: mischief.Act, reply: tuple[int, bytes], ending: str | None) -> None:
    status, body = reply
    with serving(lambda _: (status, "application/json", body)) as port:
        world = World(
            target=Target(host="127.0.0.1", port=port),
            model="m",
            max_body=1000,
            paths=frozenset({mischief.CHAT}),
            rng=random.Random(1),
            greedy={"question": "the idle answer"},
        )
        if ending is None:
            with pytest.raises(Violation):
                asyncio.run(act(world))
        else:
            assert asyncio.run(act(world)) == [ending]


def test_a_server_that_hangs_up_is_no_answer() -> None:
    async def hang_up() -> None:
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as made:
            target = Target(host="127.0.0.1", port=made.sockets[0].getsockname()[1])
            with pytest.raises(ConnectionError):
                await exchange(target, target.post("/", {}))

    asyncio.run(hang_up())


def test_every_act_can_be_played_and_is_wanted() -> None:
    everything = frozenset({mischief.CHAT, *mischief.NEEDS.values()})
    assert mischief.playable(everything) == list(mischief.ACTS)
    assert mischief.document not in mischief.playable(frozenset({mischief.CHAT}))
    assert all(weight > 0 for weight in mischief.ACTS.values())


def test_memory_that_grows_is_not_flat() -> None:
    def samples(growth: float) -> list[soak.Sample]:
        return [soak.Sample(5.0 * n, int((500 + growth * n) * (1 << 20)), 1, 0, 9) for n in range(100)]

    level, rising = soak.flatness(samples(0), 500), soak.flatness(samples(1), 500)
    assert level["flat"] and level["slope_per_hour"] == 0 and level["max"] == 500
    assert not rising["flat"] and rising["slope_per_hour"] == pytest.approx(720, rel=0.01)
    assert not soak.flatness(samples(0)[:9], 500)["flat"], "too few samples say nothing"


def test_a_spread_of_ratios_and_a_table() -> None:
    turn = bench.Turn(tokens=100, seconds=2.0, first=(0.1, 0.3), failed=0, foreign=0.0)
    slow = bench.Turn(tokens=100, seconds=4.0, first=(0.5,), failed=0, foreign=0.0)
    fast = bench.Turn(tokens=400, seconds=2.0, first=(0.5,), failed=0, foreign=0.0)
    turns = {(bench.OURS, 1): [turn], (bench.OURS, 16): [fast], ("peer", 1): [slow], ("peer", 16): [slow]}
    found = bench._ratios(turns, (1, 16))
    assert found["ours_over"]["peer"]["1"]["median"] == 2 and found["ours_over"]["peer"]["16"]["median"] == 8
    assert found["scaling"]["ratio"]["median"] == 4
    rows = [bench._row(name, clients, group) for (name, clients), group in turns.items()]
    lines = list(bench.render({"peers": {"rows": rows, **found}}))
    assert "50.0 tokens/s" in lines[0] and lines[-1].endswith("4.00x")
