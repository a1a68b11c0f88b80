"""``whimbrel plan``: does it fit, and how fast can it be?"""

from dataclasses import asdict
from typing import Annotated

import typer

from whimbrel import hardware
from whimbrel.cli import options, terminal
from whimbrel.cli.quantity import bytes_text, count_text
from whimbrel.cli.shell import verb


@verb()
def plan(
    model: Annotated[str | None, typer.Argument(help="A model; it need not be here.")] = None,
    context: options.Context = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    attention: options.Attention = None,
    sparse: options.Sparse = None,
    json: options.Json = False,
) -> None:
    """Estimate memory and the speed limit.

    From the configuration alone: the weights need not be here. Exit code 4 where it does not fit.
    """
    from whimbrel.bench.bandwidth import MEMORY_BYTES, read_bandwidth
    from whimbrel.zoo.plan import plan

    found = plan(
        model,
        context=context,
        weights=weights,
        kv_dtype=kv_dtype or "bf16",
        attention=attention or "auto",
        sparse=sparse,
        offline=terminal.offline(),
        bandwidth=read_bandwidth(min(MEMORY_BYTES, hardware.memory().available // 8)),
    )
    for note in found.notes:
        terminal.note(note)
    if json:
        terminal.result_json({"plan": asdict(found)})
    else:
        parts = (
            ("weights", found.weights),
            ("cache", found.cache),
            ("scratch", found.scratch),
            ("program", found.program),
        )
        terminal.result(
            f"{count_text(found.parameters)} parameters as {found.layout}, {found.context:,} tokens of context"
        )
        for name, size in (*parts, ("total", found.total), ("free", found.available)):
            terminal.result(f"{name:<9}{bytes_text(size):>9}")
        verdict = "fits" if found.fits else "does not fit"
        terminal.result(f"{verdict}; the longest context that does is {found.longest_context:,} tokens")
        if found.read_bandwidth and found.decode_limit and found.decode_limit_empty:
            terminal.result(
                f"memory reads {bytes_text(found.read_bandwidth)}/s (measured), so decoding is at most"
                f" {found.decode_limit_empty:,.0f} tokens/s at the start, {found.decode_limit:,.0f} at the full context"
            )
    if not found.fits:
        raise typer.Exit(4)
