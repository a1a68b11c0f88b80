"""``whimbrel data filter``: keep what rules, language, score and novelty say is worth it; count why the rest went."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whimbrel.cli import data, options
from whimbrel.cli.shell import verb
from whimbrel.errors import InvalidParameter

RULES = ("gopher", "c4", "fineweb")


@verb("filter", group=data.group)
def filter_documents(
    inputs: data.Inputs,
    output: data.Output,
    rules: Annotated[str, typer.Option("--rules", help="Of gopher,c4,fineweb, in that order; or none.")] = "none",
    language: Annotated[str | None, typer.Option("--language", help="Codes to keep, as en,zh.")] = None,
    classifier: Annotated[Path | None, typer.Option("--classifier", "-c", help="A fastText model (.bin).")] = None,
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", "-t", help="The classifier's BPE.")] = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Keep scores from here on.", min=0, max=1)] = 0.5,
    label: data.Positive = "pos",
    dedup: Annotated[str | None, typer.Option("--dedup", help="exact, or minhash (near copies too).")] = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option("--decontaminate", help="Evaluation texts; who shares 12 words with one is dropped."),
    ] = None,
    format: data.Format = "jsonl.zst",
    shard_tokenizer: Annotated[Path | None, typer.Option("--shard-tokenizer", help="For --format shards.")] = None,
    keep_rejected: Annotated[bool, typer.Option("--keep-rejected", help="Write what was dropped, too.")] = False,
    column: data.Column = "text",
    kind: data.Kind = None,
    workers: data.Workers = None,
    runner: data.RunnerName = "local",
    ray_address: data.RayAddress = None,
    strict: data.Strict = False,
    json: options.Json = False,
) -> None:
    """Filter a corpus. The same command goes on where an interrupted one stopped."""
    from whimbrel.data.reading.files import find
    from whimbrel.data.running.plan import Plan

    filters = [*_rules(rules), *_language(language), *_decontaminate(decontaminate)]
    if classifier is not None:
        if tokenizer is None:
            raise InvalidParameter("--classifier needs --tokenizer, the tokenizer.json that it was trained with")
        filters.append(quality(classifier, tokenizer, label, threshold))
    plan = Plan(
        inputs=tuple(find(inputs, kind)),
        output=output,
        filters=tuple(filters),
        column=column,
        format=format,
        shard_tokenizer=str(shard_tokenizer) if shard_tokenizer else None,
        dedup=dedup,
        keep_rejected=keep_rejected,
        strict=strict,
    )
    data.tell(data.execute(plan, runner, workers, ray_address), output, json)


def quality(classifier: Path, tokenizer: Path, label: str, threshold: float | None) -> Any:
    """The classifier as a filter."""
    from whimbrel.data.filters.quality import Quality
    from whimbrel.data.scoring.classifier import QualityClassifier

    return Quality(QualityClassifier(classifier, tokenizer, positive=label), threshold)


def _rules(names: str) -> list[Any]:
    from whimbrel.data.filters.c4 import C4
    from whimbrel.data.filters.fineweb import FineWeb
    from whimbrel.data.filters.gopher import GopherQuality, GopherRepetition

    chosen = [] if names == "none" else [name.strip() for name in names.split(",")]
    if unknown := [name for name in chosen if name not in RULES]:
        raise InvalidParameter(f"--rules: {', '.join(unknown)} is unknown; want some of {', '.join(RULES)}, or none")
    made: dict[str, list[Any]] = {
        "gopher": [GopherRepetition(), GopherQuality()],
        "c4": [C4()],
        "fineweb": [FineWeb()],
    }
    return [judge for name in RULES if name in chosen for judge in made[name]]


def _language(codes: str | None) -> list[Any]:
    if codes is None:
        return []
    from whimbrel.data.filters.language import Language

    return [Language([code.strip() for code in codes.split(",")])]


def _decontaminate(patterns: list[str] | None) -> list[Any]:
    """Every string of every record counts: questions, choices and answers."""
    if not patterns:
        return []
    from whimbrel.data.filters.decontaminate import Decontaminate, strings_of

    return [Decontaminate(strings_of(patterns))]
