"""What clients do to a server, one function each: ordinary requests, and every kind of bad behaviour.

A function makes one or a few exchanges and returns how they ended, each as a word ("answered", "refused 400", "left");
it raises ``Violation`` where the server did what it may not: no answer, a cut one, a 5xx, a 200 with a wrong body, or a
refusal without a JSON error. ``ACTS`` has them all with how often each is wanted.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from whimbrel.bench.serving.http import Reply, Target, connected, exchange, parse_reply, read_reply
from whimbrel.errors import WhimbrelError

CHAT = "/v1/chat/completions"
WORDS = ("sea", "tide", "gull", "dune", "lamp", "rope", "keel", "fog", "buoy", "reef", "wreck", "sand", "storm", "pier")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "legs": {"type": "integer", "minimum": 0, "maximum": 9},
        "can_fly": {"type": "boolean"},
    },
    "required": ["name", "legs", "can_fly"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "note_bird", "description": "Notes a bird down", "parameters": SCHEMA, "strict": True},
}
BURST = 40
SLOW_SECONDS = 6.0


class Violation(WhimbrelError):
    """The server did what it may not."""


@dataclass(kw_only=True)
class World:
    """What the acts share: the server, its limits, chance, and the answers of an idle server."""

    target: Target
    model: str
    max_body: int
    paths: frozenset[str]
    """of the server's own description; acts whose path isn't there aren't played"""
    rng: random.Random
    greedy: dict[str, str] = field(default_factory=dict)
    """prompt -> greedy answer of the idle server"""
    compared: int = 0
    """greedy answers under load that were compared with it"""
    burst: asyncio.Lock = field(default_factory=asyncio.Lock)

    def text(self, words: int) -> str:
        """A prompt that nobody has sent before."""
        return f"Note {uuid.uuid4().hex}: " + " ".join(self.rng.choices(WORDS, k=words)) + "."

    def chat(self, words: int = 12, **options: Any) -> dict[str, Any]:
        """The body of a short chat."""
        content = self.text(words) + " What does this note say?"
        return {"messages": [{"role": "user", "content": content}], "max_tokens": 24, **options}


Act = Callable[[World], Awaitable[list[str]]]


# --- ordinary requests


async def plain(world: World) -> list[str]:
    """A chat, whole."""
    reply = await _send(world, CHAT, world.chat(temperature=0.8))
    return [_ended(reply, lambda body: body["choices"][0]["message"]["content"] is not None)]


async def streamed(world: World) -> list[str]:
    """A chat as a stream, read to its end."""
    body = world.chat(temperature=0.8, stream=True, stream_options={"include_usage": True})
    return [_stream_ended(await _send(world, CHAT, body))]


async def several(world: World) -> list[str]:
    """Two answers with logprobs."""
    reply = await _send(world, CHAT, world.chat(n=2, logprobs=True, top_logprobs=2))
    return [_ended(reply, lambda body: len(body["choices"]) == 2 and body["choices"][1]["logprobs"]["content"])]


async def scored(world: World) -> list[str]:
    """A text with the logprobs of its own tokens."""
    body = {"prompt": world.text(20), "max_tokens": 1, "echo": True, "logprobs": 1}
    reply = await _send(world, "/v1/completions", body)
    return [_ended(reply, lambda body: len(body["choices"][0]["logprobs"]["token_logprobs"]) > 20)]


async def constrained(world: World) -> list[str]:
    """An answer in a guaranteed shape."""
    shape = {"type": "json_schema", "json_schema": {"name": "bird", "schema": SCHEMA, "strict": True}}
    reply = await _send(world, CHAT, world.chat(response_format=shape, temperature=1.0, max_tokens=120))
    return [_ended(reply, lambda body: _is_bird(body["choices"][0]["message"]["content"]))]


async def tools(world: World) -> list[str]:
    """A tool that has to be called."""
    body = world.chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=150)
    reply = await _send(world, CHAT, body)
    return [
        _ended(
            reply,
            lambda body: all(
                _is_bird(call["function"]["arguments"]) for call in body["choices"][0]["message"]["tool_calls"]
            ),
        )
    ]


async def embedded(world: World) -> list[str]:
    """Two embeddings."""
    reply = await _send(world, "/v1/embeddings", {"input": [world.text(9), world.text(30)]})
    return [_ended(reply, lambda body: len(body["data"]) == 2 and len(body["data"][1]["embedding"]) > 1)]


async def messages(world: World) -> list[str]:
    """A message in Anthropic's shape."""
    reply = await _send(world, "/v1/messages", world.chat(model=world.model))
    return [_ended(reply, lambda body: body["content"][0]["type"] == "text")]


async def responses(world: World) -> list[str]:
    """A response, fetched again and deleted."""
    reply = await _send(world, "/v1/responses", {"input": world.text(12), "max_output_tokens": 24})
    ended = _ended(reply, lambda body: body["output"] is not None)
    if ended == "answered":
        path = f"/v1/responses/{reply.json()['id']}"
        for method in ("GET", "DELETE"):
            _ended(await exchange(world.target, world.target.head(method, path)), lambda body: True)
    return [ended]


async def ollama(world: World) -> list[str]:
    """A chat in Ollama's shape."""
    body = {key: value for key, value in world.chat(stream=False).items() if key != "max_tokens"}
    reply = await _send(world, "/api/chat", {**body, "model": world.model, "options": {"num_predict": 24}})
    return [_ended(reply, lambda body: body["done"])]


async def greedy(world: World) -> list[str]:
    """One of the fixed questions: the answer must be the idle server's."""
    if not world.greedy:
        return ["skipped"]
    prompt = world.rng.choice(sorted(world.greedy))
    reply = await _send(world, CHAT, greedy_body(prompt))
    ended = _ended(reply, lambda body: True)
    if ended == "answered":
        world.compared += 1
        text = reply.json()["choices"][0]["message"]["content"]
        if text != world.greedy[prompt]:
            raise Violation(f"greedy answer to {prompt!r} is {text!r}, and was {world.greedy[prompt]!r} when idle")
    return [ended]


def greedy_body(prompt: str) -> dict[str, Any]:
    """The request of a fixed question."""
    return {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 40}


async def document(world: World) -> list[str]:
    """A document: read once, asked, deleted."""
    text = ". ".join(world.text(12) for _ in range(60))
    made = await exchange(world.target, _upload(world.target, text.encode()))
    ended = _ended(made, lambda body: body["id"].startswith("file-"))
    if ended != "answered":
        return [ended]
    path = f"/v1/files/{made.json()['id']}"
    status = "processing"
    while status == "processing":
        await asyncio.sleep(0.3)
        got = await exchange(world.target, world.target.head("GET", path))
        _ended(got, lambda body: body["status"])
        status = got.json()["status"]
    parts = [
        {"type": "file", "file": {"file_id": made.json()["id"]}},
        {"type": "text", "text": "Which note comes first?"},
    ]
    asked = await _send(world, CHAT, {"messages": [{"role": "user", "content": parts}], "max_tokens": 16})
    answers = [_ended(asked, lambda body: body["choices"][0]["message"]["content"] is not None)]
    gone = await exchange(world.target, world.target.head("DELETE", path))
    return [*answers, _ended(gone, lambda body: body["deleted"])]


# --- clients that leave, or are slow


async def leave_while_read(world: World) -> list[str]:
    """A long prompt whose client leaves while it is being read."""
    async with connected(world.target) as (_, writer):
        writer.write(world.target.post(CHAT, world.chat(words=1200, max_tokens=400)))
        await writer.drain()
        await asyncio.sleep(world.rng.uniform(0.02, 0.5))
    return ["left"]


async def leave_while_written(world: World) -> list[str]:
    """A stream that is left after a few pieces."""
    async with connected(world.target) as (reader, writer):
        writer.write(world.target.post(CHAT, world.chat(stream=True, max_tokens=600)))
        await writer.drain()
        for _ in range(world.rng.randint(1, 12)):
            if not await reader.readline():
                break
    return ["left"]


async def leave_at_once(world: World) -> list[str]:
    """A connection that closes in the middle of its request's head."""
    async with connected(world.target) as (_, writer):
        writer.write(world.target.head("POST", CHAT, 100)[: world.rng.randint(1, 60)])
        await writer.drain()
    return ["left"]


async def read_slowly(world: World) -> list[str]:
    """A stream that is read a few bytes at a time for some seconds, then either to its end or not at all."""
    stays = world.rng.random() < 0.5
    async with connected(world.target, receive_buffer=2048) as (reader, writer):
        writer.write(world.target.post(CHAT, world.chat(stream=True, max_tokens=200)))
        await writer.drain()
        kept, end = bytearray(), asyncio.get_running_loop().time() + SLOW_SECONDS
        while asyncio.get_running_loop().time() < end and (data := await reader.read(32)):
            kept += data
            await asyncio.sleep(0.1)
        if not stays:
            return ["left"]
        while data := await reader.read(1 << 16):
            kept += data
    return [_stream_ended(parse_reply(bytes(kept)))]


async def write_slowly(world: World) -> list[str]:
    """A body that comes a few bytes at a time: to its end, or until its client leaves."""
    stays = world.rng.random() < 0.5
    request = world.target.post(CHAT, world.chat())
    async with connected(world.target) as (reader, writer):
        steps = 20 if stays else 8
        size = len(request) // 20 + 1
        for step in range(steps):
            writer.write(request[step * size : (step + 1) * size])
            await writer.drain()
            await asyncio.sleep(SLOW_SECONDS / 20)
        return [_ended(await read_reply(reader), lambda body: True)] if stays else ["left"]


# --- requests that are wrong


async def malformed(world: World) -> list[str]:
    """JSON that is none."""
    whole = json.dumps(world.chat()).encode()
    broken = [whole[:-7], b"", b"{", b"[1, 2", b"nothing like it", whole + whole, b'{"messages": NaNa}', b"\x00" * 20]
    return [_refused(await _send(world, CHAT, world.rng.choice(broken)), {400})]


async def nested(world: World) -> list[str]:
    """JSON of a thousand brackets."""
    return [_refused(await _send(world, CHAT, b"[" * 100_000), {400})]


async def not_unicode(world: World) -> list[str]:
    """Bytes that are no UTF-8, and half a surrogate pair."""
    wrong = [
        b'{"messages": [{"role": "user", "content": "\xff\xfe\xc3"}]}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}], "max_tokens": 2}',
    ]
    return [_refused(await _send(world, CHAT, world.rng.choice(wrong)), {400})]


async def wrong_types(world: World) -> list[str]:
    """A field of the wrong kind, or out of its range."""
    wrong: list[dict[str, Any]] = [
        {"messages": "hello"},
        {"messages": []},
        {"messages": [{"role": 7, "content": {}}]},
        {"temperature": "warm"},
        {"temperature": -1},
        {"max_tokens": -3},
        {"stream": "perhaps"},
        {"n": 10**9},
        {"n": 0},
        {"logit_bias": {"x": 1}},
        {"top_p": 12},
        {"seed": 1.5},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wish"}}}},
        {"tools": "hammer"},
        {"tool_choice": "required"},
    ]
    return [_refused(await _send(world, CHAT, {**world.chat(), **world.rng.choice(wrong)}), {400})]


async def too_long(world: World) -> list[str]:
    """A prompt beyond the context."""
    return [_refused(await _send(world, CHAT, world.chat(words=9000)), {400})]


async def oversized(world: World) -> list[str]:
    """A body beyond the limit; by its announced length, or only by its bytes."""
    if world.rng.random() < 0.5:
        async with connected(world.target) as (reader, writer):
            writer.write(world.target.head("POST", CHAT, world.max_body + 1))
            return [_refused(await read_reply(reader), {413})]
    body = b"x" * (world.max_body + 1000)
    head = world.target.head("POST", CHAT).removesuffix(b"\r\n") + b"Transfer-Encoding: chunked\r\n\r\n"
    request = head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    try:
        return [_refused(await exchange(world.target, request), {413})]
    except ConnectionError:  # closed while it was still sending: the system drops what was answered then
        return ["cut off"]


async def wrong_key(world: World) -> list[str]:
    """Somebody else's key, or none."""
    key = world.rng.choice(["", "wrong", "ä".encode().decode("latin-1")])
    target = Target(host=world.target.host, port=world.target.port, key=key)
    path = world.rng.choice([CHAT, "/v1/models", "/metrics", "/nowhere"])
    return [_refused(await exchange(target, target.post(path, world.chat())), {401})]


async def wrong_path(world: World) -> list[str]:
    """A path or a method that isn't there."""
    method, path = world.rng.choice([("GET", "/nowhere"), ("GET", CHAT), ("PUT", "/v1/models"), ("GET", "/v1/../etc")])
    return [_refused(await exchange(world.target, world.target.head(method, path)), {404, 405})]


async def no_http(world: World) -> list[str]:
    """Bytes that are no HTTP; the server may refuse them or hang up."""
    try:
        reply = await exchange(world.target, b"\x16\x03\x01 hello\r\n\r\n")
    except ConnectionError:
        return ["cut off"]
    if reply.status != 400:
        raise Violation(f"bytes that are no HTTP were answered with {reply.status}")
    return ["refused 400"]


async def many_at_once(world: World) -> list[str]:
    """More requests than there is room for: each is answered, or refused with 429 and Retry-After."""
    async with world.burst:
        replies = await asyncio.gather(*(_send(world, CHAT, world.chat(max_tokens=16)) for _ in range(BURST)))
    for reply in replies:
        if reply.status == 429 and not reply.headers.get("retry-after", "").isdigit():
            raise Violation("429 without Retry-After")
    return [_ended(reply, lambda body: True) for reply in replies]


ACTS: Mapping[Act, int] = {
    plain: 8,
    streamed: 12,
    several: 3,
    scored: 3,
    constrained: 6,
    tools: 4,
    embedded: 3,
    messages: 4,
    responses: 4,
    ollama: 4,
    greedy: 14,
    document: 1,
    leave_while_read: 6,
    leave_while_written: 8,
    leave_at_once: 3,
    read_slowly: 3,
    write_slowly: 3,
    malformed: 5,
    nested: 1,
    not_unicode: 3,
    wrong_types: 6,
    too_long: 1,
    oversized: 2,
    wrong_key: 4,
    wrong_path: 2,
    no_http: 2,
    many_at_once: 1,
}
"""How often each is played, relative to the others."""

NEEDS: Mapping[Act, str] = {
    embedded: "/v1/embeddings",
    messages: "/v1/messages",
    responses: "/v1/responses",
    ollama: "/api/chat",
    document: "/v1/files",
}


def playable(paths: frozenset[str]) -> list[Act]:
    """Acts whose path the server has."""
    return [act for act in ACTS if NEEDS.get(act, CHAT) in paths]


# --- endings


async def _send(world: World, path: str, body: Any) -> Reply:
    return await exchange(world.target, world.target.post(path, body))


def _ended(reply: Reply, right: Callable[[Any], Any]) -> str:
    """ "answered" for a whole 200 whose body is ``right``; else a clean refusal for want of room."""
    if reply.status != 200:
        return _refused(reply, {429, 503})
    body = reply.json()
    if not reply.whole or body is None:
        raise Violation(f"200 with half an answer: {reply.body[-200:]!r}")
    with suppress(LookupError, TypeError, ValueError):
        if right(body):
            return "answered"
    raise Violation(f"200 with a wrong body: {reply.body[:600]!r}")


def _stream_ended(reply: Reply) -> str:
    """The same for a stream: it ends with a reason and [DONE]."""
    if reply.status != 200:
        return _refused(reply, {429, 503})
    events = reply.events
    if not reply.whole or not events or events[-1] != "[DONE]":
        raise Violation(f"a stream without its end: {reply.body[-300:]!r}")
    reasons = [choice.get("finish_reason") for event in events[:-1] for choice in event.get("choices", ())]
    if not any(reasons):
        raise Violation(f"a stream without a reason: {reply.body[-300:]!r}")
    return "answered"


def _refused(reply: Reply, expected: set[int]) -> str:
    """A refusal with one of these codes and an error in JSON."""
    if reply.status not in expected | {429}:
        raise Violation(f"answered {reply.status}, expected {sorted(expected)}: {reply.body[:300]!r}")
    body = reply.json()
    if not reply.whole or not isinstance(body, dict) or "error" not in body:
        raise Violation(f"{reply.status} without an error in JSON: {reply.body[:300]!r}")
    return f"refused {reply.status}"


def _is_bird(text: str) -> bool:
    found = json.loads(text)
    return set(found) == {"name", "legs", "can_fly"} and 0 <= found["legs"] <= 9 and isinstance(found["can_fly"], bool)


def _upload(target: Target, content: bytes) -> bytes:
    mark = uuid.uuid4().hex
    fields: Sequence[tuple[str, bytes]] = [
        ('name="purpose"', b"user_data"),
        ('name="file"; filename="notes.txt"\r\nContent-Type: text/plain', content),
    ]
    parts = [f"--{mark}\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + text for name, text in fields]
    body = b"\r\n".join(parts) + f"\r\n--{mark}--\r\n".encode()
    return target.head("POST", "/v1/files", len(body), f"multipart/form-data; boundary={mark}") + body
