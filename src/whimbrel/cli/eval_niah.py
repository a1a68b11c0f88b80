"""``whimbrel eval niah``: a needle in a haystack."""

from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import eval as shared
from whimbrel.cli import options, terminal
from whimbrel.cli.answer import open_model
from whimbrel.cli.shell import verb


@verb(group=shared.group)
def niah(
    model: options.Model = None,
    lengths: shared.Lengths = "1k,2k,4k",  # noqa: RUF100
    depths: Annotated[int, typer.Option("--depths", help="Places from beginning to end.")] = 5,
    samples: Annotated[int, typer.Option("--samples", help="Needles at each place.")] = 1,
    needle: Annotated[str, typer.Option("--needle", help="number or sentence.")] = "number",
    haystack: Annotated[
        Path | None,
        typer.Option(
            "--haystack", metavar="FILE", help="Text, Markdown, HTML, PDF or .jsonl[.gz].  [default: excerpts of PEPs]"
        ),
    ] = None,
    chat: shared.Chat = False,
    seed: shared.Seed = 0,
    limit: shared.Limit = None,
    output: shared.Output = None,
    context: options.Context = None,
    attention: options.Attention = None,
    sparse: options.Sparse = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    json: options.Json = False,
) -> None:
    """Find one fact in a long text: lengths by depths.

    Prompts have exactly the asked number of tokens. With --output, a picture of the grid is written to FILE.png where
    matplotlib is installed.
    """
    from whimbrel.eval import niah as task
    from whimbrel.eval.haystack import read_haystack
    from whimbrel.eval.prompt import Prompter
    from whimbrel.eval.report import journal_path, report, save

    journal_path(output)
    text, places = read_haystack(haystack), task.depths(depths)
    room = max(lengths) + task.ANSWER_TOKENS if context is None else context
    flags = {"context": room, "threads": threads, "weights": weights, "kv_dtype": kv_dtype}
    llm = open_model(model=model, attention=attention, sparse=sparse, **flags)
    prompter = Prompter(llm, chat=chat)
    items = list(task.items(prompter, text, lengths=lengths, depths=places, needle=needle, samples=samples, seed=seed))[
        :limit
    ]
    about = shared.identity(llm, flags, needle=needle, haystack=text.about, chat=chat, seed=seed)
    records = shared.records(llm, items, output, about)
    warnings = llm.capabilities.warnings
    found = report("niah", records, identity=about, row=task.depth_of, row_name="depth", warnings=warnings)
    if output is not None:
        save(found, output)
        _picture(output.with_suffix(".png"), found)
    shared.show(found, task.grid(records), json)


def _picture(path: Path, found: dict[str, object]) -> None:
    """The heat map beside the result, or the line that says what it needs."""
    from whimbrel.errors import MissingExtra
    from whimbrel.eval.heatmap import write_png

    try:
        write_png(found["table"], path, title=f"{Path(str(found['model'])).stem}, {found['attention']}")  # type: ignore[arg-type]
    except MissingExtra as error:
        terminal.note(str(error))
