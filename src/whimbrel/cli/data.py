"""``whimbrel data``: which text is worth training on? The group of its verbs, and what they share.

One file for each verb, ``data_<verb>.py``: ``@verb(group=data.group)``, and its name among the imports of ``main``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whimbrel.cli import terminal
from whimbrel.cli.shell import app
from whimbrel.errors import InvalidParameter

if TYPE_CHECKING:
    from whimbrel.data.document import Document
    from whimbrel.data.running.plan import Plan
    from whimbrel.data.running.tally import Tally

group = typer.Typer(help="Find the text worth training on, and prove it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(group, name="data")

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Files, folders, globs or fsspec URLs; .jsonl .parquet .txt .warc, .gz .zst."
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder, or one to go on in.")]
Classifier = Annotated[Path, typer.Option("--classifier", "-c", metavar="MODEL.bin", help="A fastText model.")]
Tokenizer = Annotated[
    Path, typer.Option("--tokenizer", "-t", metavar="tokenizer.json", help="The classifier's BPE, or its folder.")
]
Positive = Annotated[str, typer.Option("--label", help="The label whose probability is the score.")]
Column = Annotated[str, typer.Option("--column", help="Where records hold the text.")]
Kind = Annotated[
    str | None, typer.Option("--kind", help="Format, when names don't tell: jsonl, parquet, text, html, warc.")
]
Format = Annotated[str, typer.Option("--format", help="jsonl, jsonl.gz, jsonl.zst, parquet, or shards (token ids).")]
Workers = Annotated[int | None, typer.Option("--workers", "-w", help="Processes.  [default: one per core]")]
RunnerName = Annotated[str, typer.Option("--runner", help="local, or ray (Ray Data; extra [ray]).")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="A running cluster; without, Ray starts here.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first place that can't be read.")]


def documents(patterns: list[str], kind: str | None, column: str) -> Iterator["Document"]:
    """The documents of all inputs; what can't be read is told on standard error."""
    from whimbrel.data.reading.files import find
    from whimbrel.data.reading.read import read

    for file in find(patterns, kind):
        yield from read(file, column, lambda fault: terminal.note(f"skipped: {fault}"))


def execute(plan: "Plan", runner: str, workers: int | None, address: str | None) -> "Tally":
    """Run a plan with a bar: documents/s and time left. Raises InvalidParameter for an unknown runner."""
    from whimbrel.data.running.run import Progress, run

    made: Any
    if runner == "ray":
        from whimbrel.data.running.ray import RayRunner

        made = RayRunner(workers, address)
    elif runner == "local":
        from whimbrel.data.running.local import LocalRunner

        made = LocalRunner(workers)
    else:
        raise InvalidParameter(f"runner={runner} is impossible; want local or ray")
    with terminal.progress("files") as show:

        def on_progress(at: Progress) -> None:
            left = "" if at.seconds_left is None else f", {at.seconds_left:.0f} s left"
            show(f"{at.stage}: {at.documents_per_second:,.0f} documents/s{left}", at.files, at.all_files)

        return run(plan, made, on_progress)


def tell(tally: "Tally", output: Path, json: bool) -> None:
    """The outcome of a run, reasons by size."""
    from dataclasses import asdict

    if json:
        terminal.result_json({"output": str(output), **asdict(tally)})
        return
    rows = [("kept", f"{tally.kept:,}", f"{tally.kept / max(tally.documents, 1):.1%}")]
    for reason, count in sorted(tally.reasons.items(), key=lambda item: -item[1]):
        rows.append((reason, f"{count:,}", f"{count / max(tally.documents, 1):.1%}"))
    terminal.table(("of all documents", f"{tally.documents:,}", "100%"), rows)
    for fault in tally.faults[:5]:
        terminal.note(f"not read: {fault['file']}, {fault['unit']} {fault['offset']}: {fault['problem']}")
    if tally.fault_count:
        terminal.note(f"{tally.fault_count} places could not be read; {output}/report.json lists them")
    terminal.note(f"written to {output}")
