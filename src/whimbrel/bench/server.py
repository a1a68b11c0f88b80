"""The server, measured: beside the engine without a server, beside others' servers, and while a long prompt is read.

    python -m whimbrel.bench.server [--model smollm2-135m] [--clients 1,16] [--repeats 5] [--json FILE]

Four parts, each can be left out (``--only peers,overhead,mixed``):

- *peers*: the same file, slots, prompts and numbers of new tokens in ``whimbrel serve``, llama-cpp-python's server and
  llama.cpp's own ``llama-server``, in turns A B C A B C; tokens per second of all clients, time to the first token.
  llama-cpp-python's server has one slot by design: 16 clients wait for each other there.
- *overhead*: time per token of the server's stream, from the request to its last token, beside its engine without server
  and text, in the same process (``serving.hosted``), with the same short prompts (ids) and numbers of tokens, in turns;
  the ratio is that of neighbours.
- *scaling*: tokens per second of 16 clients over that of one, from our rows of *peers* (which are also measured where
  the peers aren't here).
- *mixed*: time to the first token of short prompts while somebody else's long one (``--long 32768``) is being read.

Every prompt is new, so no cache helps anybody. Clients are one cheap process (``serving.crowd``); servers that aren't
asked sit in a read. Medians of turns; a turn beside much foreign load is done again, and its share stands in the
result.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, TypeVar

from whimbrel import hardware
from whimbrel.bench.record import SCHEMA_VERSION, ForeignLoad, Spread, significant
from whimbrel.bench.serving import processes
from whimbrel.bench.serving.crowd import Answered, Ask, Crowd, Load
from whimbrel.bench.serving.hosted import Hosted
from whimbrel.bench.serving.processes import LLAMA_CPP_PYTHON, LLAMA_SERVER, OURS, Serving
from whimbrel.errors import MissingExtra
from whimbrel.eval.provenance import provenance

PARTS = ("peers", "overhead", "mixed")
CONTEXT = 2048
"""Room of one slot."""
NEW_TOKENS = 96
ANSWER_TOKENS = 256
"""Tokens of the answers of *overhead*: a screen of text. What a request costs at its beginning is part of the ratio."""
SHORT_PROMPT = 16
"""Tokens of the prompts of *overhead*: so few that all of them are read in one step, there as here."""
SHORT_EVERY = 0.5
"""Seconds between the short prompts of *mixed*."""
SUBJECTS = ("a lighthouse", "the tide", "an old map", "a whimbrel", "a winter", "a ferry", "a letter", "the dunes")

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One load on one server."""

    tokens: int
    seconds: float
    first: tuple[float, ...]
    """time to the first token of each answer"""
    failed: int
    foreign: float | None
    """share of the machine that others used meanwhile"""

    @classmethod
    def of(cls, answers: Sequence[Answered], foreign: float | None) -> "Turn":
        """From the answers of all clients: the time is from the first question to the last word."""
        good = [answer for answer in answers if answer.status == 200 and answer.tokens]
        return cls(
            tokens=sum(answer.tokens for answer in good),
            seconds=max(answer.end for answer in answers) - min(answer.start for answer in answers),
            first=tuple(answer.first_seconds for answer in good),
            failed=len(answers) - len(good),
            foreign=foreign,
        )

    @property
    def speed(self) -> float:
        """Tokens per second of all clients together."""
        return self.tokens / self.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON if asked."""
    options = parser().parse_args(arguments)
    result = measure(options, lambda line: print(line, file=sys.stderr, flush=True))
    for line in render(result):
        print(line)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    made = argparse.ArgumentParser(prog="python -m whimbrel.bench.server", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--clients", type=_numbers, default=(1, 16), help="numbers of clients  [1,16]")
    made.add_argument("--slots", type=int, default=16)
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--tokens", type=int, default=NEW_TOKENS, help="new tokens of each answer")
    made.add_argument("--long", type=int, default=32768, help="tokens of the long prompt of `mixed`")
    made.add_argument("--only", type=_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    made.add_argument("--against", type=_parts_of_peers, default=(LLAMA_CPP_PYTHON, LLAMA_SERVER), metavar="PEER,...")
    made.add_argument("--quiet", type=float, default=0.1, help="foreign load above which a turn is done again  [0.1]")
    made.add_argument("--tries", type=int, default=10, help="how often at most")
    made.add_argument("--json", metavar="FILE")
    return made


def measure(options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """One object of plain values. Raises ``MissingExtra`` (server), ``ModelNotFound``, ``WhimbrelError``."""
    from whimbrel.zoo.store import resolve

    path = resolve(options.model)
    result: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **provenance(), "model": path.name}
    result |= {"slots": options.slots, "new_tokens": options.tokens, "repeats": options.repeats}
    with Crowd() as crowd:
        if "peers" in options.only:
            result["peers"] = beside_peers(crowd, path, options, say)
        if "overhead" in options.only:
            result["overhead"] = overhead(crowd, path, options, say)
        if "mixed" in options.only:
            result["mixed"] = mixed(crowd, path, options, say)
    return result


# --- peers


def beside_peers(crowd: Crowd, model: Path, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Rows by server and number of clients, ratios of neighbouring turns, and our scaling."""
    threads = hardware.threads()
    with ExitStack() as stack:
        servers, missing = _start_all(stack, model, options, threads, say)
        turns: dict[tuple[str, int], list[Turn]] = {}
        prompts = _stories(random.Random(7))
        for server in servers:
            _run_turn(crowd, server, 2, prompts, 8)  # warms everything up
        for repeat in range(options.repeats):
            for clients in options.clients:
                measure = partial(_round, crowd, servers, clients, prompts, options.tokens)
                round_of_turns = _quietest(measure, options)
                for server, turn in zip(servers, round_of_turns, strict=True):
                    turns.setdefault((server.name, clients), []).append(turn)
                    say(f"turn {repeat + 1}: {server.name}, {clients} clients: {turn.speed:.0f} tokens/s")
    rows = [_row(name, clients, found) for (name, clients), found in turns.items()]
    return {"threads": threads, "not_here": missing, "rows": rows, **_ratios(turns, options.clients)}


def _start_all(
    stack: ExitStack, model: Path, options: argparse.Namespace, threads: int, say: Say
) -> tuple[list[Serving], dict[str, str]]:
    """Servers that run, ours first, and why others don't."""
    say("starting whimbrel serve")
    sizes = ["--context", str(CONTEXT), "--max-sequences", str(options.slots)]
    servers, missing = [stack.enter_context(processes.ours(options.model, *sizes))], {}
    starters = {
        LLAMA_CPP_PYTHON: lambda: processes.llama_cpp_python(model, context=CONTEXT, threads=threads),
        LLAMA_SERVER: lambda: processes.llama_server(model, context=CONTEXT, slots=options.slots, threads=threads),
    }
    for name in options.against:
        say(f"starting {name}")
        try:
            servers.append(stack.enter_context(starters[name]()))
        except MissingExtra as reason:
            missing[name] = str(reason)
    return servers, missing


def _round(crowd: Crowd, servers: Sequence[Serving], clients: int, prompts: Iterator[str], tokens: int) -> list[Turn]:
    """The same next prompts for each of the servers, one after the other."""
    asked = [next(prompts) for _ in range(max(clients, 2))]
    return [_run_turn(crowd, server, clients, iter(asked), tokens) for server in servers]


T = TypeVar("T", Turn, "Pair")


def _quietest(measure: Callable[[], list[T]], options: argparse.Namespace) -> list[T]:
    """Neighbouring measurements with hardly any foreign load, or the least disturbed of ``--tries``.

    llama.cpp's threads wait for each other at every layer, so that a core half taken by somebody else costs it far more
    than half; what a shared machine shows then is the other's work and no server's.
    """

    def load(found: list[T]) -> float:
        return max(one.foreign or 0.0 for one in found)

    best = measure()
    for _ in range(options.tries):
        if load(best) <= options.quiet:
            break
        best = min(best, measure(), key=load)
    return best


def _run_turn(crowd: Crowd, server: Serving, clients: int, prompts: Iterator[str], tokens: int) -> Turn:
    """Each client asks once; a single one asks twice, so that there is more to time."""
    asks = (
        [[_chat(next(prompts), tokens)] for _ in range(clients)]
        if clients > 1
        else [[_chat(next(prompts), tokens), _chat(next(prompts), tokens)]]
    )
    with ForeignLoad(server.process.pid, crowd.pid) as foreign:
        answers = crowd.run(Load(host=processes.HOST, port=server.port, clients=asks, key=server.key))
    return Turn.of(answers, foreign.share)


def _chat(prompt: str, tokens: int) -> Ask:
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": tokens, "stream": True}
    return Ask(path="/v1/chat/completions", body={**body, "stream_options": {"include_usage": True}})


def _row(name: str, clients: int, turns: Sequence[Turn]) -> dict[str, Any]:
    firsts = [first for turn in turns for first in turn.first]
    return {
        "server": name,
        "clients": clients,
        "tokens_per_second": _spread([turn.speed for turn in turns]),
        "first_token_median_s": significant(median(firsts)),
        "first_token_p95_s": significant(_p95(firsts)),
        "tokens": sum(turn.tokens for turn in turns),
        "failed": sum(turn.failed for turn in turns),
        "foreign_load": [turn.foreign for turn in turns],
    }


def _ratios(turns: Mapping[tuple[str, int], Sequence[Turn]], clients: Sequence[int]) -> dict[str, Any]:
    """Ours over each peer's by number of clients, and our most clients over our fewest."""
    peers = sorted({name for name, _ in turns} - {OURS})
    ratios = {
        name: {
            str(count): _spread(
                [a.speed / b.speed for a, b in zip(turns[OURS, count], turns[name, count], strict=True)]
            )
            for count in clients
        }
        for name in peers
    }
    least, most = min(clients), max(clients)
    pairs = zip(turns[OURS, most], turns[OURS, least], strict=True)
    scaling = _spread([many.speed / one.speed for many, one in pairs])
    return {"ours_over": ratios, "scaling": {"clients": [least, most], "ratio": scaling}}


# --- overhead


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One turn of the server and of the engine alone, with the same prompts: seconds."""

    served_decode: float
    """from the last first token to the end"""
    alone_decode: float
    served: float
    """from the request to the end"""
    alone: float
    foreign: float | None


def overhead(crowd: Crowd, model: Path, options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    """By number of clients: ms per token in the stream and in the engine, and the ratio of neighbouring turns."""
    rng, tokens = random.Random(11), ANSWER_TOKENS
    pairs: dict[int, list[Pair]] = {clients: [] for clients in options.clients}
    with Hosted(model, context=CONTEXT, max_sequences=options.slots) as hosted:
        for clients in pairs:
            _pair(crowd, hosted, rng, clients, 8, swap=False)  # warms everything up
        for repeat in range(options.repeats):
            for clients, found in pairs.items():
                for swap in (False, True):
                    measure = partial(_pair, crowd, hosted, rng, clients, tokens, swap=swap)
                    found += _quietest(measure, options)
                ratios = [100 * (pair.served / pair.alone - 1) for pair in found[-2:]]
                say(f"repeat {repeat + 1}: {clients} clients: " + ", ".join(f"{ratio:.2f}%" for ratio in ratios))
    return [_overhead_row(clients, tokens, found) for clients, found in pairs.items()]


def _pair(crowd: Crowd, hosted: Hosted, rng: random.Random, clients: int, tokens: int, *, swap: bool) -> list[Pair]:
    """Both sides, one after the other; which one is first changes from turn to turn."""
    prompts = _ids(rng, clients, SHORT_PROMPT)
    asks = [[_going_on(prompt, tokens)] for prompt in prompts]
    load = Load(host=processes.HOST, port=hosted.port, clients=asks, key="")
    others = _ids(rng, clients, SHORT_PROMPT)  # the engine keeps what it has read
    with ForeignLoad(hosted.pid, crowd.pid) as foreign:
        alone = hosted.run(others, tokens) if swap else None
        answers = crowd.run(load)
        alone = alone or hosted.run(others, tokens)
    assert all(answer.tokens == tokens for answer in answers), [answer.status for answer in answers]
    firsts, lasts = [answer.first or 0.0 for answer in answers], [answer.last or 0.0 for answer in answers]
    pair = Pair(
        served_decode=max(lasts) - max(firsts),
        alone_decode=alone.decode,
        served=max(lasts) - min(answer.start for answer in answers),
        alone=alone.prefill + alone.decode,
        foreign=foreign.share,
    )
    return [pair]


def _overhead_row(clients: int, tokens: int, pairs: Sequence[Pair]) -> dict[str, Any]:
    return {
        "clients": clients,
        "tokens": tokens,
        "server_ms_per_token": _spread([1000 * pair.served / tokens for pair in pairs]),
        "engine_ms_per_token": _spread([1000 * pair.alone / tokens for pair in pairs]),
        "overhead_percent": _spread([100 * (pair.served / pair.alone - 1) for pair in pairs]),
        "overhead_percent_after_the_first_token": _spread(
            [100 * (pair.served_decode / pair.alone_decode - 1) for pair in pairs]
        ),
        "foreign_load": [pair.foreign for pair in pairs],
    }


def _going_on(prompt: Sequence[int], tokens: int) -> Ask:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    return Ask(path="/v1/completions", body={**body, "stream_options": {"include_usage": True}})


# --- mixed


def mixed(crowd: Crowd, model: Path, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Time to the first token of short prompts, on an idle server and while a long prompt is read."""
    rng = random.Random(13)
    with processes.ours(options.model, "--context", str(options.long + 64), "--max-sequences", "4") as server:
        idle = _shorts(crowd, server, 8, None)
        (long,) = _ids(rng, 1, options.long)
        say(f"reading {options.long} tokens, and short prompts beside it")
        busy = _shorts(crowd, server, 4000, long)
    reader = next(answer for answer in busy if answer.client == 0)
    assert reader.status == 200 and reader.first is not None, reader
    beside = [answer.first_seconds for answer in busy if answer.client == 1 and answer.start < reader.first - 0.1]
    return {
        "long_prompt": options.long,
        "long_prompt_seconds": significant(reader.first_seconds),
        "short_first_token_idle_s": _spread([answer.first_seconds for answer in idle]),
        "short_first_token_beside_s": {**_spread(beside), "p95": significant(_p95(beside)), "count": len(beside)},
    }


def _shorts(crowd: Crowd, server: Serving, count: int, long: Sequence[int] | None) -> list[Answered]:
    """A client that asks short things, again and again; beside one with a long prompt if there is one.

    The short ones end with the long one: their client is told how many it may ask at most, and stops when the other's
    first token is there.
    """
    stories = _stories(random.Random(17 + (long is not None)))
    if long is None:
        asks = [[_chat(next(stories), 4) for _ in range(count)]]
        return crowd.run(Load(host=processes.HOST, port=server.port, clients=asks, key=server.key))
    shorts = []
    for number in range(count):
        ask = _chat(next(stories), 4)
        shorts.append(Ask(path=ask.path, body=ask.body, after=SHORT_EVERY * (2 if number == 0 else 1)))
    clients = [[_going_on(long, 2)], shorts]
    return crowd.run(
        Load(host=processes.HOST, port=server.port, clients=clients, key=server.key, until_first_client_ends=True)
    )


# --- prompts and figures


def _stories(rng: random.Random) -> Iterator[str]:
    """Prompts of about forty tokens that ask for more than anybody will write; no two begin alike."""
    while True:
        number = rng.randrange(10**9)
        subject, other = rng.sample(SUBJECTS, 2)
        yield (
            f"Number {number}. Write a very long story about {subject} and {other}, with many details, "
            "many people, and at least twenty chapters. Begin with the first chapter."
        )


def _ids(rng: random.Random, count: int, length: int) -> list[list[int]]:
    """Prompts of token ids, all different from their first token on; below 32000 there are no control tokens but the
    first few in the vocabularies of the models that are measured here."""
    return [[rng.randrange(1000, 30000) for _ in range(length)] for _ in range(count)]


def _spread(values: Sequence[float]) -> dict[str, float]:
    spread = Spread.of(values)
    return {"min": spread.min, "median": spread.median, "max": spread.max}


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def render(result: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a table."""
    for row in result.get("peers", {}).get("rows", ()):
        yield (
            f"{row['server']:18} {row['clients']:3} clients: {row['tokens_per_second']['median']:8.1f} tokens/s, first "
            f"token {row['first_token_median_s']:.3f} s (p95 {row['first_token_p95_s']:.3f} s), failed {row['failed']}"
        )
    for name, ratios in result.get("peers", {}).get("ours_over", {}).items():
        yield f"ours over {name}: " + ", ".join(f"{n} clients {r['median']:.2f}x" for n, r in ratios.items())
    if "peers" in result:
        yield f"ours, most clients over fewest: {result['peers']['scaling']['ratio']['median']:.2f}x"
    for row in result.get("overhead", ()):
        yield (
            f"overhead per token, {row['clients']} clients: {row['overhead_percent']['median']:.2f}%, after the first "
            f"{row['overhead_percent_after_the_first_token']['median']:.2f}%"
        )
    if "mixed" in result:
        found = result["mixed"]
        beside = found["short_first_token_beside_s"]
        yield (
            f"short prompts beside one of {found['long_prompt']} tokens ({found['long_prompt_seconds']:.0f} s): first "
            f"token {beside['median']:.3f} s (p95 {beside['p95']:.3f} s, max {beside['max']:.3f} s, {beside['count']} asked)"
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _parts(text: str) -> tuple[str, ...]:
    return _of(text, PARTS)


def _parts_of_peers(text: str) -> tuple[str, ...]:
    return () if text == "none" else _of(text, (LLAMA_CPP_PYTHON, LLAMA_SERVER))


def _of(text: str, known: Sequence[str]) -> tuple[str, ...]:
    words = tuple(text.split(","))
    unknown = [word for word in words if word not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(known)}")
    return words


if __name__ == "__main__":
    sys.exit(main())
