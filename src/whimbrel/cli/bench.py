"""``whimbrel bench``: how fast, beside llama.cpp."""

from typing import Annotated

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.quantity import bytes_text, parse_quantities
from whimbrel.cli.shell import verb


@verb()
def bench(
    model: options.Model = None,
    contexts: Annotated[
        str, typer.Option("--context", "-c", metavar="TOKENS,...", help="Lengths of the prompts.")
    ] = "512,2048,8192",
    against: Annotated[str, typer.Option("--against", help="llama.cpp or none.")] = "none",
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Turns at each length; medians count.")] = 5,
    decode_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Tokens decoded after each prompt.")] = 64,
    json: options.Json = False,
) -> None:
    """Measure prefill and decode speed.

    With --against llama.cpp both get the same weights, prompts and threads, in turns; the peer's best setting counts.
    """
    from whimbrel.bench.compare import render, run
    from whimbrel.zoo.store import resolve

    result = run(
        resolve(model),
        contexts=parse_quantities(contexts),
        threads=threads,
        against=against,
        repeats=repeats,
        decode_tokens=decode_tokens,
        weights=weights,
        kv_dtype=kv_dtype or "bf16",
        progress=terminal.note,
    )
    if json:
        terminal.result_json(result)
        return
    terminal.table(("phase", "whimbrel", "peer", "ratio", "peer's setting"), render(result))
    bandwidth = result["engine"]["read_bandwidth"]  # type: ignore[index]
    terminal.result(f"\nmedian tokens/s, {result['threads']} threads, {result['isa']}, commit {result['commit']}")
    if bandwidth:
        terminal.result(f"memory reads {bytes_text(bandwidth)}/s")
