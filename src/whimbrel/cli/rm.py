"""``whimbrel rm``: forget a model."""

from typing import Annotated

import typer

from whimbrel.cli import terminal
from whimbrel.cli.quantity import bytes_text
from whimbrel.cli.shell import verb


@verb()
def rm(
    models: Annotated[list[str], typer.Argument(help="Names, as `whimbrel list` shows them.")],
    files: Annotated[bool, typer.Option("--files", help="Delete files in the Hub's cache too.")] = False,
) -> None:
    """Forget models, and delete what was fetched.

    Registered files are never deleted; those in the Hub's cache with --files only.
    """
    from whimbrel.zoo.hub import forget
    from whimbrel.zoo.store import Store

    for name in models:
        record = Store().remove(name)
        if record.kind == "own":
            terminal.result(f"removed {name}, {bytes_text(record.bytes)}")
        elif record.kind == "hub" and files:
            terminal.result(f"removed {name}, {bytes_text(forget(record.source, record.revision))} of the Hub's cache")
        else:
            terminal.result(f"forgot {name}; its files stay at {record.path}")
