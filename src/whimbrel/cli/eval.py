"""``whimbrel eval``: how good is a model? The group of its verbs, and the options that they share.

One file for each verb, ``eval_<verb>.py``: ``@verb(group=eval.group)``, and its name among the imports of ``main``.
"""

from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli.shell import app

group = typer.Typer(help="Measure how good a model is.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(group, name="eval")

Lengths = Annotated[
    str, typer.Option("--lengths", "-l", metavar="TOKENS,...", help="Lengths of the prompts, such as 1k,2k,4k.")
]
Seed = Annotated[int, typer.Option("--seed", help="The same seed makes the same items.")]
Limit = Annotated[int | None, typer.Option("--limit", help="Only the first items, this many.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE.json", help="Save the result here; items go to FILE.jsonl as they are done."
    ),
]
Chat = Annotated[bool, typer.Option("--chat", help="Ask through the model's chat template.")]
