"""``whimbrel eval conditional``: the loss of worked answers, given their questions."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import eval as shared
from whimbrel.cli import options, terminal
from whimbrel.cli.answer import open_model
from whimbrel.cli.shell import verb


@verb(group=shared.group)
def conditional(
    items: Annotated[Path, typer.Argument(metavar="ITEMS.jsonl", help="Of `whimbrel tunnel items`.")],
    model: options.Model = None,
    limit: shared.Limit = None,
    context: options.Context = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    json: options.Json = False,
) -> None:
    """Loss of worked answers, given their questions.

    Lower is better. Per token it compares models of one vocabulary, in bits per byte any two. The model sees plain text, no chat template.
    """
    from whimbrel.eval.conditional import conditional_loss, read_items

    asked = read_items(items)[:limit]
    llm = open_model(model=model, context=context, threads=threads, weights=weights)
    with terminal.progress("items") as show:
        found = conditional_loss(
            llm.executor, llm.tokenize, asked, progress=lambda done, total: show("scoring", done, total)
        )
    if json:
        terminal.result_json({"model": llm.source, **asdict(found)})
        return
    left = f"; {len(found.left_out)} were longer than the context" if found.left_out else ""
    terminal.result(
        f"{found.per_token:.4f} +- {found.standard_error:.4f} nats per token, {found.bits_per_byte:.4f} bits per byte "
        f"({found.tokens:,} tokens of {len(found.items)} answers{left})"
    )
