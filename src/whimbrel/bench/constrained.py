"""Answers in a given shape: do schemas that real servers wrote compile, are all answers valid, what does it cost?

    python -m whimbrel.bench.constrained --tools FOLDER [--model smollm2-135m] [--generations 1000] [--part speed]

``FOLDER`` has the tools of MCP servers, ``*.tools.json``: lists of objects with ``name``, ``description`` and
``inputSchema``. Each answer is checked by somebody else: ``jsonschema`` (under the schema as it was given, formats
included), ``re``, ``sqlite3``. An answer that ``max_tokens`` cut is no valid one and no invalid one; it is counted, and
another one is asked.

Speed is that of decoding alone, without the prompt. Free and constrained answers have the same prompt and length and are
written one after the other; what is reported is the median of all pairs' ratios.
"""

import argparse
import json
import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from whimbrel import LLM
from whimbrel.backends.grammar import check_schema
from whimbrel.backends.native import NativeExecutor
from whimbrel.backends.shape import JsonSchema, Lark, OneOf, Regex, Shape, Sql
from whimbrel.bench.record import ForeignLoad, Spread, significant
from whimbrel.errors import InvalidParameter, MissingExtra, UsageError
from whimbrel.eval.provenance import provenance

Check = Callable[[str], str | None]
"""An answer to what is wrong with it, or None"""

EXPRESSIONS = {
    "A date of the 20th century:": r"19[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
    "A phone number of the United States:": r"\(\d{3}\) \d{3}-\d{4}",
    "A fruit and its price:": r"[A-Z][a-z]{2,12} costs \$\d{1,3}\.\d{2}",
    "An e-mail address:": r"[a-z]{2,12}(\.[a-z]{2,12})?@[a-z]{2,12}\.(com|org|net)",
    "Three words and a full stop:": r"(\w{1,12} ){2}\w{1,12}\.",
}
CHOICES = {
    "Is the sky blue?": ("yes", "no"),
    "What kind of bird is a whimbrel?": ("wader", "songbird", "bird of prey", "owl"),
    "How do you feel about rain?": ("very negative", "negative", "neutral", "positive", "very positive"),
}
ARITHMETIC = r"""
start: sum " = " NUMBER
sum: product ((" + " | " - ") product)*
product: atom ((" * " | " / ") atom)*
atom: NUMBER | "(" sum ")"
NUMBER: /0|[1-9][0-9]{0,3}/
"""
QUESTIONS = (
    "How many orders did each customer place in 2024?",
    "Create a table of birds with name, wingspan and weight.",
    "Delete all users that never logged in.",
    "Add a product called lamp for 30 dollars.",
    "Raise every salary by ten percent.",
)
NAMES_ONLY = re.compile(
    r"no such (table|column|function)|duplicate (column name|WITH table name)|ambiguous column name|circular reference"
)
"""What SQLite may say about a statement whose syntax is right, in a database without tables."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to ask, and how to tell whether the answer has its shape."""

    kind: str
    prompt: str
    shape: Shape
    check: Check


# --- what is asked


def read_tools(folder: Path) -> list[dict[str, Any]]:
    """The tools of all servers. Raises ``UsageError`` where there are none."""
    tools = [tool for path in sorted(folder.glob("*.tools.json")) for tool in json.loads(path.read_text("utf-8"))]
    if not tools:
        raise UsageError(f"there are no *.tools.json in {folder}; give a folder of MCP servers' tools")
    return tools


def cases(tools: Sequence[dict[str, Any]]) -> Iterator[Case]:
    """Without an end: of every ten six schemas of tools, and one of each other kind."""
    schemas, others = cycle([_tool_case(tool) for tool in tools]), cycle(_other_cases())
    for number in count():
        yield next(schemas if number % 10 < 6 else others)


def _tool_case(tool: dict[str, Any]) -> Case:
    about = " ".join(str(tool.get("description", "")).split())[:200]
    prompt = f"Call the tool {tool['name']} ({about}). Write its arguments as JSON."
    return Case("schema", prompt, JsonSchema(tool["inputSchema"]), validator(tool["inputSchema"]))


def _other_cases() -> list[Case]:
    """Fifteen of each kind, in turn."""
    expressions, choices = list(EXPRESSIONS.items()), list(CHOICES.items())
    result = []
    for index in range(15):
        prompt, pattern = expressions[index % len(expressions)]
        result.append(Case("regex", prompt, Regex(pattern), _matches(pattern)))
        prompt, options = choices[index % len(choices)]
        result.append(Case("choice", prompt, OneOf(options), _is_one_of(options)))
        prompt = f"Write a calculation about {index} and its result."
        result.append(Case("lark", prompt, Lark(ARITHMETIC), _calculates))
        prompt = f"Write one SQL statement: {QUESTIONS[index % len(QUESTIONS)]}"
        result.append(Case("sql", prompt, Sql(), parses))
    return result


# --- how answers are checked


def validator(schema: dict[str, Any]) -> Check:
    """By ``jsonschema``, in the draft that the schema names. Raises ``MissingExtra``."""
    try:
        library = import_module("jsonschema")
    except ImportError:
        raise MissingExtra("answers are checked with jsonschema: pip install jsonschema") from None
    kind = library.validators.validator_for(schema, default=library.Draft202012Validator)
    checked = kind(schema, format_checker=kind.FORMAT_CHECKER)

    def check(text: str) -> str | None:
        try:
            problem = next(checked.iter_errors(json.loads(text)), None)
        except ValueError as error:
            return f"no JSON: {error}"
        return None if problem is None else str(problem.message)

    return check


def parses(statement: str) -> str | None:
    """Does SQLite's own parser take it? Tables that don't exist are no matter of syntax."""
    with sqlite3.connect(":memory:") as database:
        try:
            database.execute(f"EXPLAIN {statement}")
        except sqlite3.Error as error:
            return None if NAMES_ONLY.match(str(error)) else str(error)
    return None


def _matches(pattern: str) -> Check:
    return lambda text: None if re.fullmatch(pattern, text) else f"{pattern} does not match"


def _is_one_of(options: Sequence[str]) -> Check:
    return lambda text: None if text in options else f"none of {options}"


def _calculates(text: str) -> str | None:
    left, _, right = text.partition(" = ")
    try:
        compile(left, "answer", "eval")
    except SyntaxError as error:
        return str(error)
    return None if right.isdigit() else "the result is no number"


# --- what is measured


def compiling(tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many schemas compile, and how long that takes."""
    seconds, refused = [], []
    for tool in tools:
        start = time.perf_counter()
        try:
            check_schema(tool["inputSchema"])
        except InvalidParameter as error:
            refused.append(f"{tool['name']}: {error}")
        seconds.append(time.perf_counter() - start)
    return {"schemas": len(tools), "refused": refused, "milliseconds": asdict(Spread.of([s * 1e3 for s in seconds]))}


def validity(
    llm: LLM, tools: Sequence[dict[str, Any]], wanted: int, max_tokens: int, *, report: Callable[[str], None]
) -> dict[str, Any]:
    """``wanted`` complete answers, sampled at temperature 1, each with its own seed, written side by side.

    For every one that ``max_tokens`` cut another is asked; an unlikely text of a small model may never end.
    """
    counts: dict[str, Counter[str]] = {}
    invalid: list[dict[str, str]] = []
    start, tokens, seed, left = time.perf_counter(), 0, 0, wanted
    source = cases(tools)
    while left:
        asked = list(islice(source, left))
        options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 1.0}
        streams = [
            llm.stream(_message(case), shape=case.shape, **options | {"seed": seed + at})
            for at, case in enumerate(asked)
        ]
        seed += left
        for case, stream in zip(asked, streams, strict=True):
            answer = stream.drain()
            tokens += answer.usage.completion_tokens
            ended = answer.finish_reason == "stop"
            problem = case.check(answer.text) if ended else None
            verdict = "cut" if not ended else "valid" if problem is None else "invalid"
            counts.setdefault(case.kind, Counter())[verdict] += 1
            if problem is not None:
                invalid.append({"kind": case.kind, "prompt": case.prompt, "answer": answer.text, "problem": problem})
            left -= ended
            if left % 50 == 0:
                report(f"{wanted - left} complete answers, {len(invalid)} invalid")
    total = sum(counts.values(), Counter[str]())
    return {
        "complete": total["valid"] + total["invalid"],
        **{verdict: total[verdict] for verdict in ("valid", "invalid", "cut")},
        "kinds": {kind: dict(counter) for kind, counter in counts.items()},
        "tokens": tokens,
        "seconds": significant(time.perf_counter() - start),
        "problems": invalid,
    }


def speed(llm: LLM, asked: Sequence[Case], max_tokens: int, repeats: int, temperature: float) -> dict[str, Any]:
    """Seconds of decoding per token, constrained over free, one answer at a time.

    ``each_token_computed``: with log-probabilities, for which forced tokens get a pass of their own, so that only the
    masks are the difference. ``as_used``: forced tokens are read together. ``microseconds_of_choosing``: what each token
    takes beside the pass, by the engine's own clock; their difference is what a grammar costs, whatever else the
    machine does.
    """
    rates: dict[str, list[float]] = {"free": [], "computed": [], "used": []}
    choosing = dict.fromkeys(("free", "computed"), 0.0)
    written = passes = 0
    for case in asked:
        options = {"max_tokens": max_tokens, "temperature": temperature, "seed": 1}
        tokens, steps = _steps(llm, case, shape=case.shape, **options)
        if len(steps) < 8:
            continue
        free = options | {"max_tokens": len(tokens), "ignore_eos": True, "logprobs": 0}
        for _ in range(repeats):
            rates["free"].append(_rate(_steps(llm, case, **free)[1]))
            choosing["free"] += _choosing(llm, len(tokens))
            computed, times = _steps(llm, case, shape=case.shape, **options, logprobs=0)
            choosing["computed"] += _choosing(llm, len(tokens))
            rates["computed"].append(_rate(times))
            used, times = _steps(llm, case, shape=case.shape, **options)
            rates["used"].append(_rate(times))
            assert computed == used == tokens, "how forced tokens are read changed the answer"
        written += len(tokens)
        passes += len(steps)
    return {
        "tokens": written,
        "tokens_per_pass": significant(written / passes),
        "free_milliseconds_per_token": significant(median(rates["free"]) * 1e3),
        "each_token_computed": _median_ratio(rates["computed"], rates["free"]),
        "as_used": _median_ratio(rates["used"], rates["free"]),
        "microseconds_of_choosing": {
            name: significant(seconds / (written * repeats) * 1e6) for name, seconds in choosing.items()
        },
    }


def side_by_side(llm: LLM, width: int, max_tokens: int, repeats: int) -> dict[str, Any]:
    """The same for ``width`` answers at a time that all have ``max_tokens``: only the masks are the difference."""
    item = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    shape = JsonSchema({"type": "array", "minItems": max_tokens, "items": item | {"required": ["name", "age"]}})
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": 1.0, "logprobs": 0}
    kinds: dict[str, dict[str, Any]] = {"free": {"ignore_eos": True}, "shaped": {"shape": shape}}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, more in kinds.items():
            streams = [llm.stream(f"Person {i}:", seed=i, **options, **more) for i in range(width)]
            for stream in streams:
                next(piece for piece in stream if piece.token_ids)
            start = time.perf_counter()
            for stream in streams:
                stream.drain()
            rates[name].append((time.perf_counter() - start) / (max_tokens - 1))
    return {
        "answers": width,
        "free_milliseconds_per_step": significant(median(rates["free"]) * 1e3),
        "each_token_computed": _median_ratio(rates["shaped"], rates["free"]),
    }


def _steps(llm: LLM, case: Case, **options: Any) -> tuple[list[int], list[tuple[float, int]]]:
    """The tokens of an answer, and when how many of them came."""
    tokens: list[int] = []
    steps: list[tuple[float, int]] = []
    with llm.stream(_message(case), **options) as stream:
        for piece in stream:
            if piece.token_ids:
                tokens += piece.token_ids
                steps.append((time.perf_counter(), len(piece.token_ids)))
    return tokens, steps


def _median_ratio(ours: Sequence[float], free: Sequence[float]) -> float:
    return significant(median(mine / theirs for mine, theirs in zip(ours, free, strict=True)))


def _choosing(llm: LLM, steps: int) -> float:
    """Seconds in which the latest steps chose their tokens."""
    assert isinstance(llm.executor, NativeExecutor)
    return sum(span.sample for span in list(llm.executor.trace.spans)[-steps:])


def _rate(steps: Sequence[tuple[float, int]]) -> float:
    """Seconds per token after the first step, whose tokens came with the prompt."""
    return (steps[-1][0] - steps[0][0]) / sum(count for _, count in steps[1:])


def _message(case: Case) -> list[dict[str, str]]:
    return [{"role": "user", "content": case.prompt}]


# --- the program


def main() -> None:
    """Measure what was asked for and print one JSON object; exit with 1 if a schema was refused or an answer invalid."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tools", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--part", choices=("all", "compile", "valid", "speed"), default="all")
    parser.add_argument("--generations", type=int, default=1000, help="complete answers")
    parser.add_argument("--max-tokens", type=int, default=768)
    parser.add_argument("--max-sequences", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    tools = read_tools(options.tools)
    result: dict[str, Any] = dict(provenance())
    if options.part in ("all", "compile"):
        result["compile"] = compiling(tools)
    if options.part in ("all", "valid", "speed"):
        with LLM(options.model, **_settings(options)) as llm, ForeignLoad() as load:
            if options.part in ("all", "valid"):
                result["valid"] = validity(llm, tools, options.generations, options.max_tokens, report=_report)
            if options.part in ("all", "speed"):
                result["speed"] = _all_speeds(llm, tools, options)
        result["foreign_load"] = load.share
    print(json.dumps(result, indent=1, ensure_ascii=False))
    sys.exit(bool(result.get("compile", {}).get("refused") or result.get("valid", {}).get("invalid")))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    context = options.max_tokens + 512
    return {
        "context": context,
        "max_sequences": options.max_sequences,
        "cache_bytes": options.max_sequences * context * 50_000,
    }


def _all_speeds(llm: LLM, tools: Sequence[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    asked = [case for case in islice(cases(tools[:: max(1, len(tools) // 12)]), 20) if case.kind != "choice"]
    return {
        "greedy": speed(llm, asked, 96, options.repeats, 0.0),
        "sampled": speed(llm, asked, 96, options.repeats, 1.0),
        "side_by_side": side_by_side(llm, options.max_sequences, 64, options.repeats),
    }


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
