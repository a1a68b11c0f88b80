"""``whimbrel eval ppl``: perplexity of documents."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.answer import open_model
from whimbrel.cli.eval import group
from whimbrel.cli.shell import verb


@verb(group=group)
def ppl(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Text, Markdown, HTML or PDF.")],
    model: options.Model = None,
    window: Annotated[
        int, typer.Option("--window", "-w", parser=options.quantity, metavar="TOKENS", help="Tokens read at a time.")
    ] = 512,
    windows: Annotated[int | None, typer.Option("--windows", help="Stop after this many.")] = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    json: options.Json = False,
) -> None:
    """Perplexity of documents; lower is better.

    Windows and scored tokens are those of llama.cpp's perplexity tool, so the numbers can be compared.
    """
    from whimbrel.eval.perplexity import perplexity
    from whimbrel.formats.document import read_document

    text = "\n\n".join(read_document(path) for path in files)
    llm = open_model(model=model, context=window, threads=threads, weights=weights, kv_dtype=kv_dtype)
    ids, begin = llm.tokenize(text), llm.tokenizer.bos_token_id
    with terminal.progress("windows") as progress:
        found = perplexity(
            llm.executor,
            ids,
            window=window,
            begin=begin if ids[:1] == [begin] else None,
            max_windows=windows,
            progress=lambda done, total: progress("reading", done, total),
        )
    if json:
        terminal.result_json({"model": llm.source, **asdict(found)})
    else:
        terminal.result(
            f"perplexity {found.perplexity:.4f} +- {found.standard_error:.4f}"
            f" ({found.scored:,} tokens scored in {len(found.windows)} windows of {found.window})"
        )
