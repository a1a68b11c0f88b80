"""``whimbrel init``: a checkpoint with random weights."""

from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.quantity import count_text
from whimbrel.cli.shell import verb


@verb()
def init(
    preset: Annotated[str, typer.Argument(help="minicpm4-0.5b, minicpm4-8b or minicpm4.1-8b.")],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    json: options.Json = False,
) -> None:
    """Write a checkpoint with random weights.

    It has the exact shapes, and the layout in which the model is published.
    """
    from whimbrel.models.init import init_checkpoint
    from whimbrel.models.presets import preset as find

    config = find(preset)
    with terminal.progress() as progress:
        written = init_checkpoint(config, folder, seed=seed, progress=lambda done, total: progress(preset, done, total))
    parameters = config.num_parameters()
    if json:
        terminal.result_json({"path": str(written), "preset": preset, "parameters": parameters, "seed": seed})
    else:
        terminal.result(f"{written}: {count_text(parameters)} ({parameters:,}) random parameters of {preset}")
