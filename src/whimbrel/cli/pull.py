"""``whimbrel pull``: bring a model here."""

from dataclasses import asdict
from typing import Annotated

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.quantity import bytes_text
from whimbrel.cli.shell import verb


@verb()
def pull(
    model: Annotated[str, typer.Argument(help="A name, org/name[:quant][@rev], a URL, a folder or a .gguf file.")],
    name: Annotated[str, typer.Option("--name", help="Keep it under this name.")] = "",
    json: options.Json = False,
) -> None:
    """Fetch a model, or register one that is here.

    The same command again goes on where the last one stopped.
    """
    from whimbrel.zoo.pull import pull

    with terminal.progress() as progress:
        record = pull(model, name=name, offline=terminal.offline(), progress=progress)
    if json:
        terminal.result_json({"model": asdict(record)})
    else:
        terminal.result(f"{record.name}  {bytes_text(record.bytes)}  {record.path}")
