"""``whimbrel tunnel sweep``, ``coordcheck``, ``transfer`` and ``compare``: what trains, and what is read from its ledger."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from whimbrel.cli import options, terminal
from whimbrel.cli import tunnel as shared
from whimbrel.cli.shell import verb

Ledger = Annotated[Path, typer.Argument(metavar="LEDGER.jsonl", help="Of `whimbrel tunnel sweep`.")]
Steps = Annotated[int, typer.Option("--steps", help="Of each run.")]
Parametrization = Annotated[str, typer.Option("--parametrization", help="mup or standard; both: mup,standard.")]


@verb(group=shared.group)
def sweep(
    text: shared.Text,
    work: shared.Work,
    widths: Annotated[str, typer.Option("--widths", metavar="N,...", help="Hidden sizes.")] = "64,128",
    rates: Annotated[str, typer.Option("--rates", metavar="X,...", help="Learning rates.")] = "5e-3,1e-2,2e-2",
    batches: Annotated[str, typer.Option("--batches", metavar="TOKENS,...", help="Tokens of a step.")] = "1024",
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,...", help="Runs with each.")] = "0",
    parametrization: Parametrization = "mup",
    steps: Steps = 200,
    margin: Annotated[
        float, typer.Option("--margin", help="Stop a run this many nats behind the best of its width; 0: never.")
    ] = 0.5,
    workers: Annotated[int, typer.Option("--workers", help="Runs at the same time.")] = 1,
    spread: Annotated[str, typer.Option("--spread", help="auto, here, processes or ray.")] = "auto",
    vocabulary: shared.Vocabulary = 1024,
    layers: shared.Layers = 4,
    sequence: shared.Sequence = 128,
    base_width: shared.BaseWidth = 64,
    threads: shared.Threads = 1,
    device: shared.Device = "cpu",
    json: options.Json = False,
) -> None:
    """Train a grid of small models, each once.

    Runs are kept in FOLDER/ledger.jsonl as they end; the same command goes on where it was stopped, and another grid
    adds to it. A ledger of another text or model is refused.
    """
    from whimbrel.tunnel import sweep as task
    from whimbrel.tunnel.ledger import Ledger as Runs
    from whimbrel.tunnel.pool import open_pool

    runner = shared.runner(
        text, work, vocabulary=vocabulary, layers=layers, sequence=sequence, base_width=base_width, threads=threads
    )
    runner = replace(runner, device=device)
    stopping = task.Stopping(margin=margin) if margin else None
    trials = [
        trial
        for kind in parametrization.split(",")
        for trial in task.grid(
            shared.whole(widths),
            shared.numbers(rates),
            shared.whole(batches),
            shared.whole(seeds),
            steps=steps,
            parametrization=kind,
        )
    ]
    with Runs(work / "ledger.jsonl", runner.recipe()) as ledger, terminal.progress("runs") as show:
        pool = open_pool(runner, workers, spread)
        found = task.sweep(
            trials, pool, ledger, stopping=stopping, progress=lambda done, total: show("training", done, total)
        )
    if json:
        terminal.result_json({"runs": [{"trial": asdict(t), "outcome": asdict(o)} for t, o in found]})
        return
    rows = [
        (t.key, o.status, "" if o.loss is None else f"{o.loss:.4f}", f"{o.seconds:.0f} s", o.reason) for t, o in found
    ]
    terminal.table(("run", "", "held-out loss", "took", ""), rows)


@verb(group=shared.group)
def transfer(ledger: Ledger, picture: shared.Picture = None, json: options.Json = False) -> None:
    """Does the best learning rate move with the width?"""
    from whimbrel.tunnel.ledger import read_ledger
    from whimbrel.tunnel.picture import write_transfer
    from whimbrel.tunnel.transfer import transfer as question

    _, runs = read_ledger(ledger)
    found = question(runs)
    if json:
        terminal.result_json({"transfer": [asdict(one) for one in found]})
    else:
        for one in found:
            fixed = dict(one.fixed)
            rows = []
            for width in one.widths:
                behind = fixed.get(width.width)
                rows.append(
                    (
                        str(width.width),
                        f"{width.best_rate:.3g}{' (edge)' if width.at_edge else ''}",
                        f"{width.best_loss:.4f}",
                        "-" if behind is None else f"{behind:+.4f}",
                    )
                )
            terminal.result(f"{one.parametrization}, {one.tokens_per_step} tokens a step:")
            terminal.table(("width", "best rate", "loss", "with the narrowest's rate"), rows)
            terminal.result(f"the best rate moves by {one.moves:.0f} factors of 2, end to end {one.drift:+.0f}\n")
    shared.drawn(picture, lambda path: write_transfer(found, path))


@verb(group=shared.group)
def coordcheck(
    text: shared.Text,
    work: shared.Work,
    widths: Annotated[str, typer.Option("--widths", metavar="N,...", help="Hidden sizes.")] = "64,128,256,512",
    parametrization: Parametrization = "mup,standard",
    rate: Annotated[float, typer.Option("--rate", help="Learning rate of the steps.")] = 0.01,
    steps: Annotated[int, typer.Option("--steps", help="Steps of training.")] = 5,
    vocabulary: shared.Vocabulary = 1024,
    layers: shared.Layers = 4,
    sequence: shared.Sequence = 128,
    base_width: shared.BaseWidth = 64,
    threads: shared.Threads = 1,
    picture: shared.Picture = None,
    json: options.Json = False,
) -> None:
    """Do activations keep their size as the width grows?"""
    from whimbrel.tunnel.coordcheck import coordcheck as check
    from whimbrel.tunnel.picture import write_coordcheck

    runner = shared.runner(
        text, work, vocabulary=vocabulary, layers=layers, sequence=sequence, base_width=base_width, threads=threads
    )
    kinds = parametrization.split(",")
    found = [check(runner, shared.whole(widths), parametrization=kind, rate=rate, steps=steps) for kind in kinds]
    if json:
        terminal.result_json({"checks": [{**asdict(one), "flat": one.flat} for one in found]})
    else:
        rows = [
            (one.parametrization, place, *(f"{slope:+.2f}" for slope in slopes))
            for one in found
            for place, slopes in one.slopes.items()
        ]
        terminal.table(("", "slope of log|x|", *(f"step {step}" for step in range(steps + 1))), rows)
        for one in found:
            what = "flat" if one.flat else "grows with the width"
            terminal.result(f"{one.parametrization}: {what} (steepest slope {one.steepest:+.2f})")
    shared.drawn(picture, lambda path: write_coordcheck(found, path))


@verb(group=shared.group)
def compare(
    text: shared.Text,
    work: shared.Work,
    width: Annotated[int, typer.Option("--width", help="Hidden size of both sides.")],
    steps: Steps = 400,
    tokens_per_step: Annotated[int, typer.Option("--batch", help="Tokens of a step, of both sides.")] = 1024,
    rate: Annotated[float | None, typer.Option("--rate", help="muP's.  [default: the best of the ledger]")] = None,
    vocabulary: shared.Vocabulary = 1024,
    layers: shared.Layers = 4,
    sequence: shared.Sequence = 128,
    base_width: shared.BaseWidth = 64,
    threads: shared.Threads = 1,
    device: shared.Device = "cpu",
    json: options.Json = False,
) -> None:
    """muP at a searched rate, or StepLaw's without muP?"""
    from whimbrel.tunnel.compare import compare as both
    from whimbrel.tunnel.compare import searched_rate
    from whimbrel.tunnel.ledger import read_ledger

    runner = shared.runner(
        text, work, vocabulary=vocabulary, layers=layers, sequence=sequence, base_width=base_width, threads=threads
    )
    runner = replace(runner, device=device)
    searched = searched_rate(read_ledger(work / "ledger.jsonl")[1], width) if rate is None else rate
    sides = both(runner, width=width, steps=steps, tokens_per_step=tokens_per_step, mup_rate=searched)
    if json:
        terminal.result_json({"sides": [asdict(side) for side in sides]})
        return
    rows = [
        (
            side.name,
            f"{side.trial.rate:.3g}",
            side.outcome.status if side.outcome.loss is None else f"{side.outcome.loss:.4f}",
            "-" if side.conditional is None else f"{side.conditional:.4f}",
        )
        for side in sides
    ]
    terminal.table(("", "rate", "held-out loss", "conditional loss"), rows)
