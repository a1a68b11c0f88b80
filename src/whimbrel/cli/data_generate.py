"""``whimbrel data generate``: textbook sections, discussions and restructured pages from seeds, checked."""

import os
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import data, options, terminal
from whimbrel.cli.shell import verb
from whimbrel.errors import InvalidParameter


@verb("generate", group=data.group)
def generate_documents(
    inputs: data.Inputs,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.jsonl", help="What passes all checks.")],
    model: options.Model = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="An OpenAI-compatible address ending in /v1.")
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option("--key-variable", help="Environment variable with its key.")
    ] = None,
    paradigms: Annotated[str, typer.Option("--paradigms", help="Of textbook,forum,restructure.")] = "textbook,forum",
    rounds: Annotated[int, typer.Option("--rounds", help="What passes is a seed of the next.", min=1)] = 1,
    decontaminate: Annotated[list[str] | None, typer.Option("--decontaminate", help="Evaluation texts.")] = None,
    classifier: Annotated[
        Path | None, typer.Option("--classifier", "-c", help="Keep what it scores 0.5 or more.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", "-t", help="The classifier's BPE.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first seeds, this many.")] = None,
    column: data.Column = "text",
    kind: data.Kind = None,
    json: options.Json = False,
) -> None:
    """Write new documents from seeds with a model here or behind an address, and keep what is well-formed and new."""
    import itertools

    from whimbrel.data.document import Drop, Filter
    from whimbrel.data.filters.decontaminate import Decontaminate, strings_of
    from whimbrel.data.generation.checks import Checks
    from whimbrel.data.generation.generate import evolve
    from whimbrel.data.generation.paradigms import named
    from whimbrel.data.writing import writer

    chosen = [named(name.strip()) for name in paradigms.split(",")]
    others: list[Filter] = [Decontaminate(strings_of(decontaminate))] if decontaminate else []
    if classifier is not None:
        from whimbrel.cli.data_filter import quality

        if tokenizer is None:
            raise InvalidParameter("--classifier needs --tokenizer, the tokenizer.json that it was trained with")
        others.append(quality(classifier, tokenizer, "pos", 0.5))
    seeds = list(itertools.islice(data.documents(inputs, kind, column), limit))
    reasons: Counter[str] = Counter()
    checks = {paradigm.name: Checks(paradigm, others=others) for paradigm in chosen}
    with writer(output, "jsonl") as out:
        for document, verdict in evolve(seeds, chosen, _writer(model, endpoint, key_variable), checks, rounds):
            reasons[verdict.reason if isinstance(verdict, Drop) else "kept"] += 1
            if not isinstance(verdict, Drop):
                out.add(document)
    if json:
        terminal.result_json({"output": str(output), "seeds": len(seeds), "outcomes": dict(reasons)})
        return
    terminal.table(("outcome", "documents"), [(reason, str(count)) for reason, count in reasons.most_common()])


def _writer(model: str | None, endpoint: str | None, key_variable: str | None):  # type: ignore[no-untyped-def]
    if endpoint is not None:
        from whimbrel.data.generation.endpoint import Endpoint

        if model is None:
            raise InvalidParameter("--endpoint needs --model, the name by which its server knows the model")
        return Endpoint(url=endpoint, model=model, key=os.environ.get(key_variable) if key_variable else None)
    from whimbrel.cli.answer import open_model

    llm = open_model(model=model)
    return lambda request: llm.chat(request, max_tokens=2048).text
