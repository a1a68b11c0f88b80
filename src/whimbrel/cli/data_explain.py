"""``whimbrel data explain``: which n-grams decided a text's score."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from whimbrel.cli import data, options, terminal
from whimbrel.cli.shell import verb


@verb("explain", group=data.group)
def explain_score(
    classifier: data.Classifier,
    tokenizer: data.Tokenizer,
    input: Annotated[str | None, typer.Argument(metavar="[INPUT]", help="A file; without, standard input.")] = None,
    index: Annotated[int, typer.Option("--index", help="Which document of the file.", min=0)] = 0,
    top: Annotated[int, typer.Option("--top", help="N-grams of each side.", min=1)] = 10,
    label: data.Positive = "pos",
    column: data.Column = "text",
    kind: data.Kind = None,
    json: options.Json = False,
) -> None:
    """Show what each n-gram added to a score. Shares are exact: they add up to the score's logit."""
    from whimbrel.data.scoring.classifier import QualityClassifier
    from whimbrel.data.scoring.explain import explain
    from whimbrel.errors import InvalidParameter

    if input is None:
        text = sys.stdin.read()
    else:
        found = next((d for at, d in enumerate(data.documents([input], kind, column)) if at == index), None)
        if found is None:
            raise InvalidParameter(f"--index {index}: {input} has fewer documents")
        text = found.text
    result = explain(QualityClassifier(classifier, tokenizer, positive=label), text, top)
    if json:
        terminal.result_json(asdict(result))
        return
    terminal.result(f"score {result.score:.4f}  (logit {result.logit:+.3f} from {result.grams} n-grams)")
    rows = [(f"{gram.share:+.4f}", str(gram.count), gram.text) for gram in (*result.positive, *result.negative)]
    terminal.table(("share", "times", "n-gram"), rows)
