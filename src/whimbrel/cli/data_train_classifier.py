"""``whimbrel data train-classifier``: two kinds of text -> a fastText model, measured on texts held out."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from whimbrel.cli import data, options, terminal
from whimbrel.cli.shell import verb
from whimbrel.errors import InvalidParameter

Texts = list[str]


@verb("train-classifier", group=data.group)
def train_classifier(
    positive: Annotated[Texts, typer.Option("--positive", "-p", help="Files of texts worth training on.")],
    negative: Annotated[Texts, typer.Option("--negative", "-n", help="Files of other texts.")],
    tokenizer: data.Tokenizer,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL.bin")],
    preset: Annotated[
        str, typer.Option("--preset", help="paper (the published recipe), or small (a few thousand documents).")
    ] = "paper",
    dim: Annotated[int | None, typer.Option("--dim", help="Length of the vectors.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate at the start.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs")] = None,
    word_ngrams: Annotated[int | None, typer.Option("--word-ngrams")] = None,
    min_count: Annotated[int | None, typer.Option("--min-count", help="Rarer words have no row of their own.")] = None,
    bucket: Annotated[int | None, typer.Option("--bucket", help="Rows that n-grams share.")] = None,
    threads: Annotated[int, typer.Option("--threads", help="0: all cores; 1: the same model every time.")] = 0,
    held_out: Annotated[
        float, typer.Option("--held-out", help="Share of the texts kept for measuring.", max=0.9)
    ] = 0.1,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    picture: Annotated[Path | None, typer.Option("--picture", help="ROC and calibration, as .png or .svg.")] = None,
    column: data.Column = "text",
    kind: data.Kind = None,
    json: options.Json = False,
) -> None:
    """Train the quality classifier, and measure it."""
    from whimbrel.data.scoring.classifier import QualityClassifier
    from whimbrel.data.scoring.held_out import draw, measure
    from whimbrel.data.scoring.split import split
    from whimbrel.data.scoring.training import PRESETS, train

    if preset not in PRESETS:
        raise InvalidParameter(f"--preset {preset} is unknown; want {' or '.join(PRESETS)}")
    given = {
        "dim": dim, "lr": lr, "epochs": epochs, "word_ngrams": word_ngrams, "min_count": min_count, "bucket": bucket
    }  # fmt: skip
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    config = replace(PRESETS[preset], threads=threads, seed=seed, **changes)
    good, good_held = split((d.text for d in data.documents(positive, kind, column)), held_out, seed)
    bad, bad_held = split((d.text for d in data.documents(negative, kind, column)), held_out, seed)
    counts = train(good, bad, tokenizer, output, config)
    terminal.note(f"trained on {counts[0]:,} positive and {counts[1]:,} negative texts: {output}")
    if not good_held or not bad_held:
        terminal.note("nothing was held out, so nothing was measured")
        return
    classifier = QualityClassifier(output, tokenizer)
    result = measure(classifier.score(good_held), classifier.score(bad_held))
    if picture is not None:
        draw(result, picture)
    if json:
        terminal.result_json({"model": str(output), "trained_on": counts, **asdict(result)})
        return
    terminal.result(
        f"held out: F1 {result.f1:.4f}, precision {result.precision:.4f}, recall {result.recall:.4f}, "
        f"area under ROC {result.auc:.4f}, calibration error {result.calibration_error:.3f} "
        f"({result.positives} positive, {result.negatives} negative texts)"
    )
