"""``whimbrel bench``: prefill and decode, here and in llama.cpp, interleaved, the peer at its best.

Both sides get the same file, the same token ids and the same number of threads, each in a process of its own. For each
context length every setting of the peer runs once; those near the best of either phase stay. Then all run in turns,
A B A B, with a new prompt in every turn, so that a slow minute of the machine hits both. A row's peer is the setting
with the best median; its ratio is that of neighbouring turns.

Beyond 8,192 tokens our side runs twice, dense and sparse (InfLLM v2). Beyond 16,384 the peer doesn't read whole prompts
any more: their time follows from chunks at several depths (``depths``), and the row says so.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from whimbrel import hardware
from whimbrel.bench.agree import GREEDY_TOKENS, agreement
from whimbrel.bench.depths import DEPTHS, DeepPeer
from whimbrel.bench.record import SCHEMA_VERSION, Spread, significant
from whimbrel.bench.side import DENSE, SPARSE, Side, Timing
from whimbrel.bench.worker import LLAMA_CPP, WHIMBREL, RemoteSide
from whimbrel.errors import InvalidParameter
from whimbrel.eval.provenance import provenance
from whimbrel.models.loading import load_config

CONTEXTS = (512, 2048, 8192)
DECODE_TOKENS = 64
"""Tokens decoded after each prompt: their mean time is one measurement of decoding at that context."""
REPEATS = 5
KEEP = 0.75
"""A setting whose first run reaches this share of the best one, in either phase, is measured further."""

WHOLE_PROMPTS = 16384
"""Longer ones the peer doesn't read whole: at 32,768 tokens SmolLM2-135M takes it more than ten minutes on two cores."""
DENSE_LIMIT = 32768
"""Our side attends to everything up to here."""
SPARSE_FROM = 8192
"""Shorter sequences are dense by the published constants."""

PHASES = ("prefill", "decode")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt, run by us and by each of the peer's settings that are still in the race."""

    ours: Mapping[str, Timing]
    """by the way of attending"""
    peer: Mapping[str, Timing]


def run(
    model: Path,
    *,
    contexts: Sequence[int] = CONTEXTS,
    threads: int | None = None,
    against: str = LLAMA_CPP,
    repeats: int = REPEATS,
    decode_tokens: int = DECODE_TOKENS,
    weights: str | None = None,
    kv_dtype: str = "bf16",
    cache_folder: Path | None = None,
    progress: Progress = lambda line: None,
) -> dict[str, object]:
    """Measure and return one object of plain values, ready for ``json.dumps``; see ``render`` for a table.

    ``model`` is a file or folder (GGUF where there is a peer); ``against`` is "llama.cpp" or "none"; ``threads`` None
    takes one for each core; ``weights`` and ``kv_dtype`` change our side only; ``cache_folder`` keeps the peer's
    requantized file (None: the platform's cache folder); ``progress`` gets a line of text before each step.
    Keys: ``schema_version``, ``rows`` (``phase``, ``context``, ``unit``, ``whimbrel`` and, with a peer, ``peer``,
    ``ratio``, ``peer_setting``), ``engine``, ``peer``, ``agreement``, ``model``, ``threads``, and those of
    ``eval.provenance``. Raises ``InvalidParameter``, ``MissingExtra``, and what loading raises.
    """
    threads = threads or hardware.threads()
    _check(model, contexts, against, repeats, decode_tokens)
    room = max(contexts) + decode_tokens + 1
    with ExitStack() as stack:
        options = {"path": str(model), "threads": threads}
        ours_options = {**options, "max_context": room, "weights": weights, "kv_dtype": kv_dtype}
        progress("loading the model")
        ours = stack.enter_context(RemoteSide(WHIMBREL, ours_options))
        peer: RemoteSide | None = None
        if against == LLAMA_CPP:
            progress("loading it in llama.cpp, and requantizing a copy")
            peer_options = {**options, "cache_folder": str(cache_folder or default_cache_folder())}
            peer = stack.enter_context(RemoteSide(LLAMA_CPP, peer_options))
        return {
            "schema_version": SCHEMA_VERSION,
            **provenance(),
            "model": str(model),
            "threads": threads,
            "repeats": repeats,
            "decode_tokens": decode_tokens,
            **measure(ours, peer, contexts, repeats, decode_tokens, load_config(model).vocab_size, progress),
        }


def measure(
    ours: Side,
    peer: Side | None,
    contexts: Sequence[int],
    repeats: int,
    decode_tokens: int,
    vocab_size: int,
    progress: Progress,
) -> dict[str, object]:
    """The part of the result that the two sides make: agreement, descriptions and rows."""
    result: dict[str, object] = {}
    if peer is not None:
        progress(f"comparing {GREEDY_TOKENS} greedy tokens and their scores")
        found = agreement(ours, peer)
        result["agreement"] = {**_rounded(asdict(found)), "agrees": found.agrees}
    for side in (ours, peer):
        for setting in side.settings if side is not None else ():
            assert side is not None
            side.warm_up(setting)
    prompts = random.Random(0)
    taken: dict[int, tuple[dict[str, Timing], list[Turn]]] = {}
    candidates = peer.settings if peer is not None else ()
    for context in contexts:
        taken[context] = _context(
            ours, peer, candidates, context, repeats, decode_tokens, vocab_size, prompts, progress
        )
        if context > WHOLE_PROMPTS:  # a minute for each setting: what is far behind here is farther behind later
            candidates = tuple(promising(taken[context][0], context))
    progress("measuring how fast memory is read")
    engine = dict(ours.describe())  # after the work, so that it knows the peak of memory
    rows = []
    for context, (tried, turns) in taken.items():
        for attention in turns[0].ours:
            prefill, decode = (_row(phase, context, attention, tried, turns) for phase in PHASES)
            decode |= _roofline(context + decode_tokens / 2, attention, turns, engine)
            rows += [prefill, decode]
    if peer is not None:
        result["peer"] = dict(peer.describe())
    return {**result, "engine": engine, "rows": rows}


def render(result: Mapping[str, object]) -> list[tuple[str, str, str, str, str]]:
    """Rows of a table: phase and context, our median tokens/s, the peer's, the ratio, and the peer's setting."""
    rows = result["rows"]
    assert isinstance(rows, list)
    lines = []
    for row in rows:
        peer = f"{row['peer']['median']:.0f}" if "peer" in row else "-"
        ratio = f"{row['ratio']['median']:.2f}" if "ratio" in row else "-"
        ours = f"{row['whimbrel']['median']:.0f}"
        lines.append(
            (f"{row['phase']} {row['context']} {row['attention']}", ours, peer, ratio, row.get("peer_setting", "-"))
        )
    return lines


def default_cache_folder() -> Path:
    """Where the peer's requantized files are kept."""
    from platformdirs import user_cache_path

    return user_cache_path("whimbrel") / "bench"


def _context(
    ours: Side,
    peer: Side | None,
    candidates: Sequence[str],
    context: int,
    repeats: int,
    decode_tokens: int,
    vocab_size: int,
    prompts: random.Random,
    progress: Progress,
) -> tuple[dict[str, Timing], list[Turn]]:
    """All measurements at one length: the first run of each of the peer's candidates, and the turns."""
    tried: dict[str, Timing] = {}
    first_prompt = _prompt(prompts, context, vocab_size)
    clock = None if peer is None else peer if context <= WHOLE_PROMPTS else DeepPeer(peer, context)
    for setting in candidates:
        assert clock is not None
        progress(f"{context} tokens: llama.cpp, {setting}")
        tried[setting] = clock.measure(setting, first_prompt, decode_tokens)
    kept = promising(tried, context)
    turns = []
    for repeat in range(repeats):
        prompt = _prompt(prompts, context, vocab_size)
        progress(f"{context} tokens: turn {repeat + 1} of {repeats}")
        mine = {attention: ours.measure(attention, prompt, decode_tokens) for attention in attentions(context)}
        theirs = {setting: clock.measure(setting, prompt, decode_tokens) for setting in kept} if clock else {}
        turns.append(Turn(mine, theirs))
    return tried, turns


def attentions(context: int) -> list[str]:
    """Ways to attend that are measured at that length."""
    return [DENSE] * (context <= DENSE_LIMIT) + [SPARSE] * (context > SPARSE_FROM)


def promising(tried: Mapping[str, Timing], context: int) -> list[str]:
    """Settings that come within ``KEEP`` of the best rate of either phase."""
    kept = []
    for setting, timing in tried.items():
        best = {phase: max(rate(other, phase, context) for other in tried.values()) for phase in PHASES}
        if any(rate(timing, phase, context) >= KEEP * best[phase] for phase in PHASES):
            kept.append(setting)
    return kept


def rate(timing: Timing, phase: str, context: int) -> float:
    """Tokens per second of one phase of a run."""
    return context / timing.prefill if phase == "prefill" else timing.decoded / timing.decode


def _row(
    phase: str, context: int, attention: str, tried: Mapping[str, Timing], turns: Sequence[Turn]
) -> dict[str, object]:
    """One row of the result."""
    ours = [rate(turn.ours[attention], phase, context) for turn in turns]
    row: dict[str, object] = {
        "phase": phase,
        "context": context,
        "attention": attention,
        "unit": "tokens/s",
        "whimbrel": asdict(Spread.of(ours)),
        "foreign_load": _foreign_load(turns),
    }
    if not tried:
        return row
    peer = {setting: [rate(turn.peer[setting], phase, context) for turn in turns] for setting in turns[0].peer}
    best = max(peer, key=lambda setting: median(peer[setting]))
    ratios = [mine / theirs for mine, theirs in zip(ours, peer[best], strict=True)]
    return row | {
        "peer": asdict(Spread.of(peer[best])),
        "ratio": asdict(Spread.of(ratios)),
        "peer_setting": best,
        "peer_prompt": "whole" if context <= WHOLE_PROMPTS else f"computed from chunks at depths {[*DEPTHS, context]}",
        "peer_medians": {setting: significant(median(rates)) for setting, rates in peer.items()},
        "peer_first_runs": {setting: significant(rate(timing, phase, context)) for setting, timing in tried.items()},
    }


def _roofline(context: float, attention: str, turns: Sequence[Turn], engine: Mapping[str, object]) -> dict[str, object]:
    """What a decode row adds: bytes read for each token, and the share of the machine's read bandwidth that makes."""
    weights, kv, bandwidth = (
        engine[name] for name in ("weight_bytes_per_token", "kv_bytes_per_token_of_context", "read_bandwidth")
    )
    assert isinstance(weights, int) and isinstance(kv, int)
    num_bytes = weights + kv * context
    if attention == SPARSE:
        tokens, kernels = engine["sparse_tokens"], engine["kernel_bytes_per_token_of_context"]
        assert isinstance(tokens, int) and isinstance(kernels, float)
        num_bytes = weights + kv * min(context, tokens) + kernels * context
    rates = median(rate(turn.ours[attention], "decode", 0) for turn in turns)
    row: dict[str, object] = {"bytes_per_token": round(num_bytes)}
    if isinstance(bandwidth, float):
        row["share_of_read_limit"] = significant(num_bytes * rates / bandwidth)
    return row


def _foreign_load(turns: Sequence[Turn]) -> float | None:
    """The largest share of the machine that other work took in any turn: above a few per cent, measure again."""
    timings = [timing for turn in turns for timing in (*turn.ours.values(), *turn.peer.values())]
    shares = [timing.foreign_load for timing in timings if timing.foreign_load is not None]
    return max(shares, default=None)


def _prompt(prompts: random.Random, context: int, vocab_size: int) -> list[int]:
    """Ids without meaning: the time does not depend on them, and no cache can know them."""
    return [prompts.randrange(vocab_size) for _ in range(context)]


def _rounded(values: Mapping[str, object]) -> dict[str, object]:
    return {name: significant(value) if isinstance(value, float) else value for name, value in values.items()}


def _check(model: Path, contexts: Sequence[int], against: str, repeats: int, decode_tokens: int) -> None:
    if against not in (LLAMA_CPP, "none"):
        raise InvalidParameter(f"against={against!r}: there are 'llama.cpp' and 'none'")
    if not contexts or min(contexts) < 64:
        raise InvalidParameter(f"contexts={list(contexts)}: give lengths of at least 64 tokens, such as 512,2048")
    if repeats < 1 or decode_tokens < 1:
        raise InvalidParameter(f"repeats={repeats}, decode_tokens={decode_tokens}: both are at least 1")
    if against == LLAMA_CPP and model.is_dir():
        raise InvalidParameter(f"{model} is a folder and llama.cpp reads .gguf files; give one, or --against none")
