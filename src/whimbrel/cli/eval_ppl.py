"""``whimbrel eval ppl``: perplexity of documents."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli.eval import group
from whimbrel.cli.shell import verb


@verb(group=group)
def ppl(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Text, Markdown, HTML, PDF, or .jsonl[.gz] with texts.")
    ],
    model: options.Model = None,
    window: Annotated[
        int, typer.Option("--window", "-w", parser=options.quantity, metavar="TOKENS", help="Tokens read at a time.")
    ] = 512,
    windows: Annotated[int | None, typer.Option("--windows", help="Stop after this many.")] = None,
    attention: Annotated[
        str | None,
        typer.Option("--attention", help="auto, dense, sparse, or both one after the other.  [default: auto]"),
    ] = None,
    sparse: options.Sparse = None,
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    json: options.Json = False,
) -> None:
    """Perplexity of documents; lower is better.

    Windows and scored tokens are those of llama.cpp's perplexity tool, so the numbers can be compared: the second half
    of each window is scored. Beside it stands the perplexity of all tokens of the windows.
    """
    flags = {"model": model, "context": window, "threads": threads, "weights": weights, "kv_dtype": kv_dtype}
    names = ["dense", "sparse"] if attention == "both" else [attention]
    runs = [
        _measure(files, window, windows, {**flags, "attention": name, "sparse": sparse if name != "dense" else None})
        for name in names
    ]
    if json:
        terminal.result_json(runs[0] if len(runs) == 1 else {"runs": runs})
        return
    for run in runs:
        terminal.result(
            f"perplexity {run['perplexity']:.4f} +- {run['standard_error']:.4f}"
            f" ({run['scored']:,} tokens scored in {len(run['windows'])} windows of {run['window']}),"
            f" of all tokens {run['perplexity_all']:.4f};"
            f" attention {run['attention']}, {run['sparsity']:.1%} of keys not attended"
        )
    if len(runs) == 2:
        ratios = [runs[1][key] / runs[0][key] - 1 for key in ("perplexity", "perplexity_all")]
        terminal.result(f"sparse against dense: {ratios[0]:+.2%}, of all tokens {ratios[1]:+.2%}")


def _measure(files: list[Path], window: int, windows: int | None, flags: dict[str, Any]) -> dict[str, Any]:
    """One model, opened for this, and its figures."""
    from dataclasses import asdict

    from whimbrel.attention.keys import count_keys
    from whimbrel.cli.answer import open_model
    from whimbrel.cli.eval import identity
    from whimbrel.eval.haystack import read_text
    from whimbrel.eval.perplexity import perplexity
    from whimbrel.eval.provenance import provenance

    text = "\n\n".join(read_text(path) for path in files)
    with open_model(**flags) as llm, terminal.progress("windows") as progress:
        ids, begin = llm.tokenize(text), llm.tokenizer.bos_token_id
        found = perplexity(
            llm.executor,
            ids,
            window=window,
            begin=begin if ids[:1] == [begin] else None,
            max_windows=windows,
            progress=lambda done, total: progress("reading", done, total),
        )
        return {
            **identity(llm, flags),
            "warnings": list(llm.capabilities.warnings),
            "sparsity": count_keys(0, window, llm.capabilities.sparse).sparsity,
            "last_sparsity": count_keys(window - 1, window, llm.capabilities.sparse).sparsity,
            "files": [path.name for path in files],
            **asdict(found),
            **provenance(),
        }
