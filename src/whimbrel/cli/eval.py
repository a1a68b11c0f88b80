"""``whimbrel eval``: how good is a model? The group of its verbs, and what they share.

One file for each verb, ``eval_<verb>.py``: ``@verb(group=eval.group)``, and its name among the imports of ``main``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.shell import app

if TYPE_CHECKING:
    from whimbrel.backends.llm import LLM
    from whimbrel.eval.record import Record
    from whimbrel.eval.task import Item

group = typer.Typer(help="Measure how good a model is.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(group, name="eval")

Lengths = Annotated[
    Any,
    typer.Option(
        "--lengths",
        "-l",
        parser=options.quantities,
        metavar="TOKENS,...",
        help="Lengths of the prompts.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed makes the same items.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first items, this many.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE.json", help="Save the result; items go to FILE.jsonl at once, to go on from."
    ),
]
Chat = Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template.")]


def identity(llm: "LLM", flags: Mapping[str, Any], **task: Any) -> dict[str, Any]:
    """What every record of an evaluation depends on: the model, how it was opened, and the task's own options."""
    sparse = llm.capabilities.sparse
    opened = {key: flags.get(key) for key in ("weights", "kv_dtype")}
    return {
        "model": llm.source,
        **opened,
        "attention": "dense" if sparse is None else "sparse",
        "sparse": None if sparse is None else asdict(sparse),
        "positions": llm.config.max_position_embeddings if llm.config else None,
        **task,
    }


def records(llm: "LLM", items: Sequence["Item"], output: Path | None, about: Mapping[str, Any]) -> list["Record"]:
    """Ask all items, with a bar; what a journal beside ``output`` has is not asked again."""
    from whimbrel.eval.journal import Journal
    from whimbrel.eval.provenance import commit
    from whimbrel.eval.record import run
    from whimbrel.eval.report import journal_path

    journal = Journal(journal_path(output), about, commit=commit())
    here = sum(journal.get(item.id) is not None for item in items)
    if here:
        terminal.note(f"{here} of {len(items)} items are in {journal.path} already")
    try:
        with terminal.progress("items") as progress:
            return run(llm, items, journal, progress=lambda done, total: progress("asking", done, total))
    except KeyboardInterrupt:
        if journal.path is not None:
            terminal.note(f"{len(journal)} items are in {journal.path}; the same command goes on from there")
        raise


def show(value: dict[str, Any], table: tuple[Sequence[str], Sequence[Sequence[str]]], json: bool) -> None:
    """Print a report, as JSON or as its table."""
    from whimbrel.attention.sparse import SparseConfig
    from whimbrel.models.attention import describe

    if json:
        terminal.result_json(value)
        return
    terminal.table(*table)
    attention = describe(None if value["sparse"] is None else SparseConfig(**value["sparse"]))
    terminal.result(f"\nscore {value['score']:.1f} over {len(value['records'])} items; attention {attention}")
