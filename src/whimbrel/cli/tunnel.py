"""``whimbrel tunnel``: train small, predict large. The group of its verbs, and what those that train share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whimbrel.cli import terminal
from whimbrel.cli.shell import app
from whimbrel.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from whimbrel.tunnel.training import ModelRunner

group = typer.Typer(help="Train small models, predict large ones.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(group, name="tunnel")

Text = Annotated[
    Path,
    typer.Option("--text", metavar="FILE", help="Training text: .jsonl[.gz] with a `text` in each line."),
]
Work = Annotated[Path, typer.Option("--work", metavar="FOLDER", help="Keeps shards, runs under way and the ledger.")]
Vocabulary = Annotated[int, typer.Option("--vocabulary", help="Tokens of the BPE that is made from the text.")]
Layers = Annotated[int, typer.Option("--layers", help="Of every model.")]
Sequence = Annotated[int, typer.Option("--sequence", help="Tokens that a row of a batch holds.")]
BaseWidth = Annotated[int, typer.Option("--base-width", help="muP: the width at which rates are what they say.")]
Threads = Annotated[int, typer.Option("--threads", help="Of each run.")]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda: where each run computes.")]
Picture = Annotated[Path | None, typer.Option("--picture", metavar="FILE.png", help="Draw it (needs matplotlib).")]
HoldOut = Annotated[str, typer.Option("--hold-out", metavar="MODEL,...", help="Fitted without, then predicted.")]


def runner(
    text: Path, work: Path, *, vocabulary: int, layers: int, sequence: int, base_width: int, threads: int
) -> "ModelRunner":
    """Shards of the text (made once) and what all runs share."""
    from whimbrel.tunnel.corpus import prepare
    from whimbrel.tunnel.training import ModelRunner

    corpus = prepare(text, work / "corpus", vocab_size=vocabulary)
    return ModelRunner(
        corpus=corpus, work=work / "runs", layers=layers, sequence=sequence, base_width=base_width, threads=threads
    )


def numbers(text: str) -> list[float]:
    """``1e-3,2e-3`` as an option's value. Raises UsageError."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r}: numbers separated by commas were expected, such as 1e-3,2e-3") from None


def whole(text: str) -> list[int]:
    """``64,128`` as an option's value. Raises UsageError."""
    values = numbers(text)
    if any(value != int(value) for value in values):
        raise UsageError(f"{text!r}: whole numbers separated by commas were expected, such as 64,128")
    return [int(value) for value in values]


def names(text: str) -> set[str]:
    """``7B,13B`` as an option's value."""
    return {part.strip() for part in text.split(",") if part.strip()}


def drawn(path: Path | None, draw: "object") -> None:
    """Draw a picture where one was asked for; without matplotlib say what it needs, the numbers were printed already."""
    if path is None or not callable(draw):
        return
    try:
        draw(path)
    except MissingExtra as error:
        terminal.note(str(error))
