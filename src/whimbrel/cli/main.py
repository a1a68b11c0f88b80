"""The ``whimbrel`` program: one binary, one verb for each thing that people want to do."""

from typing import Annotated

import typer

import whimbrel
from whimbrel.cli import (  # noqa: F401  (register)
    ask,
    bench,
    config,
    data_explain,
    data_filter,
    data_generate,
    data_score,
    data_train_classifier,
    data_verify,
    doctor,
    eval_conditional,
    eval_niah,
    eval_ppl,
    eval_ruler,
    eval_sparsity,
    init,
    list,
    ops,
    plan,
    pull,
    read,
    rm,
    run,
    serve,
    show,
    train,
    tunnel_fits,
    tunnel_runs,
)
from whimbrel.cli.shell import app


def _version(asked: bool) -> None:
    if asked:
        print(f"whimbrel {whimbrel.__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Efficient small language models that read far, on the machine you have."""


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="whimbrel")
