"""``whimbrel eval ruler``: thirteen tasks that say how much of its context a model uses."""

from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import eval as shared
from whimbrel.cli import options, terminal
from whimbrel.cli.answer import open_model
from whimbrel.cli.shell import verb


@verb(group=shared.group)
def ruler(
    model: options.Model = None,
    lengths: shared.Lengths = "4k",
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="NAME,...", help="Some of the tasks.  [default: all thirteen]")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Items of each task at each length.")] = 10,
    squad: Annotated[Path | None, typer.Option("--squad", metavar="FILE", help="dev-v2.0.json, for qa_1.")] = None,
    hotpotqa: Annotated[
        Path | None, typer.Option("--hotpotqa", metavar="FILE", help="hotpot_dev_distractor_v1.json, for qa_2.")
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            "--documents",
            metavar="FILE",
            help="Haystack, and questions where data sets are missing: .jsonl[.gz].  [default: excerpts of PEPs]",
        ),
    ] = None,
    chat: shared.Chat = False,
    seed: shared.Seed = 0,
    limit: shared.Limit = None,
    output: shared.Output = None,
    context: options.Context = None,
    attention: options.Attention = None,
    sparse: options.Sparse = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    json: options.Json = False,
) -> None:
    """The thirteen tasks of RULER, made here, at any length.

    Two of them need data sets that are not shipped: SQuAD (qa_1) and HotpotQA (qa_2). Without their files questions
    about local documents stand in, under the names documents_qa_1 and documents_qa_2.
    """
    from whimbrel.eval import ruler as task
    from whimbrel.eval.prompt import Prompter
    from whimbrel.eval.report import cells, journal_path, save

    journal_path(output)
    materials = task.read_materials(documents=documents, squad=squad, hotpotqa=hotpotqa)
    names = task.task_names(tasks.split(",") if tasks else None, materials)
    flags = {"context": context or max(lengths), "threads": threads, "weights": weights, "kv_dtype": kv_dtype}
    llm = open_model(model=model, attention=attention, sparse=sparse, **flags)
    prompter = Prompter(llm, chat=chat)
    items = list(task.items(prompter, materials, tasks=names, lengths=lengths, samples=samples, seed=seed))[:limit]
    about = shared.identity(llm, flags, chat=chat, seed=seed, **materials.about)
    substitutes = {real: other for real, other in task.SUBSTITUTES.items() if other in names}
    if substitutes:
        terminal.note("no data set was given for " + ", ".join(f"{a}: {b} stands in" for a, b in substitutes.items()))
    records = shared.records(llm, items, output, about)
    found = task.ruler_report(records, about, substitutes, llm.capabilities.warnings)
    if output is not None:
        save(found, output)
    shared.show(found, cells(records, task.task_of, str), json)
    if substitutes and found["score_without_substitutes"] is not None and not json:
        terminal.result(f"score {found['score_without_substitutes']:.1f} without {' and '.join(substitutes.values())}")
