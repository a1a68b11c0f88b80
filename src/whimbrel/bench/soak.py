"""Mixed load for as long as you like: clients of every kind against one server, and what became of it.

    python -m whimbrel.bench.soak --minutes 60 --json report.json

Starts ``whimbrel serve`` on loopback, records greedy answers of the idle server, then lets ``--clients`` of them play the
acts of ``serving.mischief`` one after the other: ordinary chats, streams, shapes, tools, documents; clients that leave,
that read or write slowly; malformed, oversized and foreign requests; bursts beyond the queue. Every five seconds the
server's memory and gauges are noted. In the end the load stops, the server must drain, answer the same, and end cleanly.

Exit code 1 if one of the report's ``checks`` failed: no violation (every request was answered, cleanly refused, or left
by its client), nothing stuck, greedy answers identical, memory flat after the warm-up, no traceback, a clean end.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from whimbrel.bench.record import SCHEMA_VERSION, significant
from whimbrel.bench.serving import mischief, processes
from whimbrel.bench.serving.http import Target, exchange
from whimbrel.bench.serving.mischief import CHAT, Violation, World
from whimbrel.bench.serving.processes import Serving
from whimbrel.eval.provenance import provenance

KEY = "a-key-for-the-load"
MAX_BODY = 1 << 20
OPTIONS = ("--context", "4096", "--max-sequences", "8", "--max-queue", "16", "--cache", "400m", "--max-body", "1m")
EVERY = 5.0
"""Seconds between samples."""
ACT_SECONDS = 180.0
"""An act that takes longer is stuck."""
DRAIN_SECONDS = 30.0
WARM_UP = 0.2
"""Share of the time after which memory must be flat."""
FLAT = 0.05
"""Growth of memory that still counts as flat, over all the time after the warm-up."""
KEPT = 50
"""Violations that the report quotes; all are counted."""
QUESTIONS = (
    "Name the capital of France.",
    "Count to ten.",
    "Write a line about rain.",
    "What is a whimbrel?",
    "Say something in French.",
    "List three colours.",
    "Why is the sea salty?",
    "Write a short poem about a lighthouse.",
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment."""

    seconds: float
    memory: int
    running: int
    waiting: int
    blocks_used: int


@dataclass(slots=True)
class Log:
    """What the clients saw."""

    endings: dict[str, Counter[str]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    violated: int = 0

    def note(self, act: str, endings: Sequence[str]) -> None:
        """Count how an act ended."""
        self.endings.setdefault(act, Counter()).update(endings)

    def blame(self, act: str, error: BaseException) -> None:
        """Count a violation, and quote the first ones."""
        self.note(act, ["VIOLATION"])
        self.violated += 1
        if len(self.violations) < KEPT:
            self.violations.append(f"{time.strftime('%H:%M:%S')} {act}: {type(error).__name__}: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a summary, write the report; 1 if a check failed."""
    options = parser().parse_args(arguments)
    with processes.ours(options.model, *OPTIONS, "--log-format", "json", key=KEY) as server:
        report = asyncio.run(soak(server, options, lambda line: print(line, file=sys.stderr, flush=True)))
    report["checks"]["clean end"] = server.exit_code == 0 and not server.tracebacks
    report["exit_code"], report["tracebacks"] = server.exit_code, server.tracebacks[:5]
    for line in render(report):
        print(line)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if all(report["checks"].values()) else 1


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    made = argparse.ArgumentParser(prog="python -m whimbrel.bench.soak", description=(__doc__ or "").split("\n")[0])
    made.add_argument("--model", default="smollm2-135m")
    made.add_argument("--minutes", type=float, default=60.0)
    made.add_argument("--clients", type=int, default=10)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--json", metavar="FILE")
    return made


async def soak(server: Serving, options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """The whole of it but the server's end; one object of plain values."""
    paths = frozenset(json.loads(server.get("/openapi.json"))["paths"])
    target = Target(host=processes.HOST, port=server.port, key=KEY)
    world = World(target=target, model=options.model, max_body=MAX_BODY, paths=paths, rng=random.Random(options.seed))
    say("greedy answers of the idle server")
    world.greedy = await idle_answers(world)
    log, samples = Log(), list[Sample]()
    start = time.monotonic()
    end = start + 60 * options.minutes
    watcher = asyncio.create_task(_watch(server, samples, start, say))
    clients = [_client(world, log, end, random.Random(options.seed + number)) for number in range(options.clients)]
    await asyncio.gather(*clients)
    say("the load has ended")
    drained = await _drained(server)
    watcher.cancel()
    after = await idle_answers(world)
    memory = flatness(samples, 60 * options.minutes)
    return {
        "schema_version": SCHEMA_VERSION,
        **provenance(),
        "model": options.model,
        "server_options": " ".join(OPTIONS),
        "minutes": options.minutes,
        "clients": options.clients,
        "seconds": significant(time.monotonic() - start),
        "not_played": sorted(act.__name__ for act in set(mischief.ACTS) - set(mischief.playable(paths))),
        "requests": sum(count for endings in log.endings.values() for count in endings.values()),
        "endings": {act: dict(sorted(endings.items())) for act, endings in sorted(log.endings.items())},
        "violations": {"count": log.violated, "first": log.violations},
        "greedy": {"questions": len(world.greedy), "compared_under_load": world.compared},
        "memory": memory,
        "drain_seconds": drained,
        "checks": {
            "no violation": log.violated == 0,
            "drained": drained is not None,
            "greedy answers identical": after == world.greedy and world.compared > 0,
            "memory flat": memory["flat"],
        },
        "samples": [asdict(sample) for sample in samples],
    }


async def idle_answers(world: World) -> dict[str, str]:
    """Greedy answers to ``QUESTIONS``, one after the other."""
    answers = {}
    for question in QUESTIONS:
        reply = await exchange(world.target, world.target.post(CHAT, mischief.greedy_body(question)))
        answers[question] = str(reply.json()["choices"][0]["message"]["content"])
    return answers


async def _client(world: World, log: Log, end: float, rng: random.Random) -> None:
    """Plays one act after the other until the time is over. A stuck act is a violation, and left."""
    acts = mischief.playable(world.paths)
    weights = [mischief.ACTS[act] for act in acts]
    while time.monotonic() < end:
        (act,) = rng.choices(acts, weights)
        try:
            async with asyncio.timeout(ACT_SECONDS):
                log.note(act.__name__, await act(world))
        except (Violation, OSError, TimeoutError, ValueError, LookupError) as error:
            log.blame(act.__name__, error)


async def _watch(server: Serving, samples: list[Sample], start: float, say: Say) -> None:
    """A sample every five seconds, a line every minute."""
    while True:
        sample = await asyncio.to_thread(_sample, server, start)
        if sample is not None:
            samples.append(sample)
            if len(samples) % 12 == 1:
                say(
                    f"{sample.seconds:6.0f} s: {sample.memory >> 20} MiB, {sample.running} running, {sample.waiting} waiting"
                )
        await asyncio.sleep(EVERY)


def _sample(server: Serving, start: float) -> Sample | None:
    """None where the server didn't answer in time, which the drain and the clients will tell."""
    memory = server.memory()
    try:
        gauges = [int(server.metric(f"whimbrel_{name}")) for name in ("running", "waiting", "blocks_used")]
    except (OSError, urllib.error.HTTPError):
        return None
    return None if memory is None else Sample(significant(time.monotonic() - start), memory, *gauges)


async def _drained(server: Serving) -> float | None:
    """Seconds until nothing runs, waits or holds a block; None if that didn't come."""
    start = time.monotonic()
    while time.monotonic() < start + DRAIN_SECONDS:
        sample = await asyncio.to_thread(_sample, server, start)
        if sample is not None and sample.running == sample.waiting == sample.blocks_used == 0:
            return significant(time.monotonic() - start)
        await asyncio.sleep(0.2)
    return None


def flatness(samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """What memory did after the warm-up: its line, and the last quarter beside the first. MiB."""
    late = [sample for sample in samples if sample.seconds >= WARM_UP * seconds]
    if len(late) < 8:
        return {"flat": False, "why": f"only {len(late)} samples after the warm-up; let it run for minutes"}
    times, mib = [sample.seconds / 3600 for sample in late], [sample.memory / (1 << 20) for sample in late]
    quarter = len(late) // 4
    first, last = median(mib[:quarter]), median(mib[-quarter:])
    return {
        "flat": last <= first * (1 + FLAT),
        "first_quarter": significant(first),
        "last_quarter": significant(last),
        "growth_percent": significant(100 * (last / first - 1)),
        "slope_per_hour": significant(linear_regression(times, mib).slope),
        "max": significant(max(mib)),
        "at_start": significant(samples[0].memory / (1 << 20)),
    }


def render(report: Mapping[str, Any]) -> list[str]:
    """Lines for people."""
    lines = [f"{report['requests']} requests in {report['seconds']:.0f} s by {report['clients']} clients"]
    for act, endings in report["endings"].items():
        lines.append(f"  {act:20} " + ", ".join(f"{ending} {count}" for ending, count in endings.items()))
    lines += [f"  {text}" for text in report["violations"]["first"]]
    lines.append(f"memory: {json.dumps(report['memory'])}")
    lines.append(f"drained in {report['drain_seconds']} s; {report['greedy']['compared_under_load']} greedy compared")
    return lines + [f"{'ok  ' if good else 'FAIL'} {check}" for check, good in report["checks"].items()]


if __name__ == "__main__":
    sys.exit(main())
