"""``whimbrel train``: pre-training, longer contexts, fine-tuning, from recipe files."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.shell import app, verb

group = typer.Typer(help="Train a model from a recipe file.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(group, name="train")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="See docs/training.md.")]
Folder = Annotated[Path, typer.Option("--out", "-o", help="Checkpoints and the log; a stopped run goes on from there.")]
Board = Annotated[bool, typer.Option("--tensorboard", help="Write event files too.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Picture of the loss, a PNG.")]
Export = Annotated[Path | None, typer.Option("--export", help="Write the trained model here, in the Hub's layout.")]
Gguf = Annotated[Path | None, typer.Option("--gguf", help="And as GGUF file; needs --export.")]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="Write the changes alone, as peft reads them.")]
TokenizerFolder = Annotated[Path | None, typer.Option("--tokenizer", help="Folder whose tokenizer the export gets.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Of the export: bf16 or f32.")]


@verb(group=group)
def pretrain(
    recipe: RecipePath,
    out: Folder,
    tensorboard: Board = False,
    plot: Plot = None,
    export: Export = None,
    gguf: Gguf = None,
    tokenizer: TokenizerFolder = None,
    dtype: Dtype = "bf16",
    json: options.Json = False,
) -> None:
    """Train on token shards."""
    _train("pretrain", recipe, out, tensorboard, plot, export, gguf, tokenizer, dtype, json)


@verb(group=group)
def long(
    recipe: RecipePath,
    out: Folder,
    tensorboard: Board = False,
    plot: Plot = None,
    export: Export = None,
    gguf: Gguf = None,
    tokenizer: TokenizerFolder = None,
    dtype: Dtype = "bf16",
    json: options.Json = False,
) -> None:
    """Extend a dense model's context.

    LongRoPE and block-sparse attention (InfLLM v2), on documents of mixed lengths.
    """
    _train("long", recipe, out, tensorboard, plot, export, gguf, tokenizer, dtype, json)


@verb(group=group)
def sft(
    recipe: RecipePath,
    out: Folder,
    tensorboard: Board = False,
    plot: Plot = None,
    export: Export = None,
    gguf: Gguf = None,
    tokenizer: TokenizerFolder = None,
    dtype: Dtype = "bf16",
    json: options.Json = False,
) -> None:
    """Fine-tune on conversations.

    They are written by the model's chat template; the loss counts the assistant's turns only.
    """
    _train("sft", recipe, out, tensorboard, plot, export, gguf, tokenizer, dtype, json)


@verb(group=group)
def lora(
    recipe: RecipePath,
    out: Folder,
    tensorboard: Board = False,
    plot: Plot = None,
    export: Export = None,
    gguf: Gguf = None,
    adapter: Adapter = None,
    tokenizer: TokenizerFolder = None,
    dtype: Dtype = "bf16",
    json: options.Json = False,
) -> None:
    """Fine-tune low-rank changes on conversations.

    The model itself stays frozen; an export has the changes merged.
    """
    _train("lora", recipe, out, tensorboard, plot, export, gguf, tokenizer, dtype, json, adapter)


def _train(
    mode: str,
    recipe: Path,
    out: Path,
    tensorboard: bool,
    plot: Path | None,
    export: Path | None,
    gguf: Path | None,
    tokenizer: Path | None,
    dtype: str,
    json: bool,
    adapter: Path | None = None,
) -> None:
    from whimbrel.errors import MissingExtra, UsageError

    if gguf is not None and export is None:
        raise UsageError("--gguf is made from the exported folder: give --export too")
    if find_spec("torch") is None:
        raise MissingExtra("training needs torch: pip install 'whimbrel[train]'")
    from whimbrel.train.modes import export_lora, export_run, run_recipe
    from whimbrel.train.recipe_file import read_recipe

    asked = read_recipe(recipe, mode)
    result = run_recipe(asked, out, write=terminal.note, tensorboard=tensorboard)
    if plot is not None:
        from whimbrel.train.reporting import plot_loss

        plot_loss(plot, out)
    if export is not None:
        export_run(asked, out, export, tokenizer, dtype)
    if gguf is not None and export is not None:
        from whimbrel.models.exporting import export_gguf

        export_gguf(export, gguf)
    if adapter is not None:
        export_lora(asked, out, adapter)
    if json:
        terminal.result_json({
            "train": {
                "mode": mode, "loss": result.loss, "held_out_loss": result.held_out_loss, "steps": result.steps,
                "tokens": result.tokens, "seconds": round(result.seconds, 3), "checkpoint": str(result.checkpoint),
            }
        })  # fmt: skip
        return
    held_out = "" if result.held_out_loss is None else f", held out {result.held_out_loss:.4f}"
    terminal.result(f"loss {result.loss:.4f}{held_out} after {result.steps} steps, {result.tokens:,} tokens")
    terminal.result(f"checkpoint {result.checkpoint}")
