"""``whimbrel eval sparsity``: does block selection find the blocks that matter?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whimbrel.cli import eval as shared
from whimbrel.cli import options, terminal
from whimbrel.cli.shell import verb

if TYPE_CHECKING:
    from whimbrel.eval.sparsity import Sparsity

WORST = 5
"""Heads that are named below the table."""


@verb(group=shared.group)
def sparsity(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Text, Markdown, HTML, PDF, or .jsonl[.gz] with texts.")
    ],
    model: options.Model = None,
    length: Annotated[
        int, typer.Option("--length", "-l", parser=options.quantity, metavar="TOKENS", help="Tokens of text to read.")
    ] = "16k",  # type: ignore[assignment]
    samples: Annotated[int, typer.Option("--samples", help="Places of the text to look at.")] = 8,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens that the model writes at each.")] = 8,
    sparse: options.Sparse = None,
    ops: Annotated[str, typer.Option("--ops", help="What computes: auto, native or reference.")] = "auto",
    threads: options.Threads = None,
    weights: options.Weights = None,
    kv_dtype: options.KVDtype = None,
    json: options.Json = False,
) -> None:
    """Attention mass that block selection keeps, and could.

    The model attends to everything; at some places of the text, its selection is compared with the exact attention
    mass of all blocks: all, of all attention; best, what blocks chosen by their exact mass keep; recall, the first
    against the second; free, recall among the blocks that are not always attended.
    """
    from whimbrel.cli.answer import open_model
    from whimbrel.eval import sparsity as measure
    from whimbrel.eval.haystack import read_text
    from whimbrel.eval.probe import Probe
    from whimbrel.eval.provenance import provenance
    from whimbrel.ops import dispatch

    text, probe = "\n\n".join(read_text(path) for path in files), Probe()
    flags = {"model": model, "threads": threads, "weights": weights, "kv_dtype": kv_dtype}
    table = probe.table(dispatch.bind(ops))
    room = length + tokens + 1
    with open_model(**flags, attention="sparse", sparse=sparse, context=room, ops=table) as llm:
        ids = llm.tokenize(text)[:length]
        with terminal.progress("places") as progress:
            found = measure.sparsity(
                llm.executor,
                probe,
                ids,
                samples=samples,
                tokens=tokens,
                progress=lambda done, total: progress("reading", done, total),
            )
        about = {**shared.identity(llm, flags), "tokens": len(ids), "files": [path.name for path in files]}
    if json:
        heads = [{"layer": layer, "head": head, **at.to_dict()} for (layer, head), at in found.heads.items()]
        whole = {"queries": found.queries, "blocks": found.blocks, **found.whole.to_dict()}
        terminal.result_json({**about, **whole, "heads": heads, **provenance()})
        return
    _show(found)


def _show(found: "Sparsity") -> None:
    """A line for each layer, the sum, and the heads that lose most."""
    rows = []
    for layer, recall in [*found.layers().items(), ("all", found.whole)]:
        own = [at.chosen_recall for (of, _), at in found.heads.items() if layer in (of, "all")]
        numbers = (recall.share, recall.oracle_share, recall.recall, recall.chosen_recall, min(own))
        rows.append([str(layer), *(f"{number:.1%}" for number in numbers)])
    terminal.table(["layer", "all", "best", "recall", "free", "worst head"], rows)
    worst = ", ".join(
        f"{layer}/{head} {found.heads[layer, head].chosen_recall:.1%}" for layer, head in found.worst(WORST)
    )
    terminal.result(f"\nlowest (layer/head, free): {worst}")
    terminal.result(f"{found.queries} tokens looked at, {found.blocks:.1%} of their blocks selected")
