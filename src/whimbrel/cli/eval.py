"""``whimbrel eval``: how good is a model?"""

from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.answer import ModelOptions
from whimbrel.cli.shell import app, verb

group = typer.Typer(help="Measure how good a model is.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(group, name="eval")


@verb(group=group)
def ppl(
    files: Annotated[list[Path], typer.Argument(help="Text, Markdown, HTML or PDF.")],
    model: options.Model = None,
    context: options.Context = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = "bf16",
    json: options.Json = False,
) -> None:
    """Perplexity of documents: how surprised the model is by them; lower is better."""
    raise NotImplementedError
